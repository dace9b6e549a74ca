"""Trained vectors, rows of tokens and networks as parts for the blocks of the pool."""
