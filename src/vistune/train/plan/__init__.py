"""What a run would do, before it does it: counts, memory, and what is learned of three samples."""
