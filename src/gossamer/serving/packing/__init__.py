"""Adapters of every kind as rows in the blocks of the pool."""
