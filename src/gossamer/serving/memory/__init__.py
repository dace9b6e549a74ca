"""Owns the pool's blocks: gives them to sequences, prefixes and adapters, takes back idle ones."""
