"""Do two runs differ? Statistics over the questions that both answered, and a page that shows where."""
