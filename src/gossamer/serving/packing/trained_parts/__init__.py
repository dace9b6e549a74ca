"""Trained vectors, rows of tokens and bottlenecks as parts for the blocks of the pool."""
