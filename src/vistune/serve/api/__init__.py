"""The OpenAI-compatible API: what is asked over HTTP, held against the limits, and given to an engine."""
