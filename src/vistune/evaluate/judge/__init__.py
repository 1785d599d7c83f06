"""A text-only LLM as judge: it grades two answers to a question about a picture that it knows from words."""
