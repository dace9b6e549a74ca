"""Defines what all parts of the engine know: requests, sequences and adapters, as numbers."""
