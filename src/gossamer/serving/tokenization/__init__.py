"""Texts and conversations to token ids, and what the tokens of a vocabulary are."""
