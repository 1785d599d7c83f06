"""How the embedded starter parts are made: a small vision encoder and a small LLM, from seeds."""
