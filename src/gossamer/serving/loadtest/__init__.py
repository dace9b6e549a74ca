"""Load on an OpenAI-compatible server, ours or another, and what its users felt."""
