"""Proof, when a model is loaded, that it is computed here as transformers computes it."""
