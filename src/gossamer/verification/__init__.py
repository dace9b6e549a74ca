"""Proof that the server answers as the trained models do."""
