"""A text-only LLM behind an OpenAI-compatible endpoint; the teacher and the judge ask it."""
