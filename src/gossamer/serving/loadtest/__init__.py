"""Puts load on an OpenAI-compatible server, ours or another, and measures what users felt."""
