"""Encodes texts and conversations as token ids, and knows the tokens of a vocabulary."""
