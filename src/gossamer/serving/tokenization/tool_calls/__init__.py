"""Reads tool calls in the text of an answer as it comes: one parser for each family of models."""
