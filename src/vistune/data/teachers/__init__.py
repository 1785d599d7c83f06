"""Who writes instruction data: an LLM that reads only text, or rules."""
