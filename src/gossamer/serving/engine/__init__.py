"""Runs the engine's loop, turns tokens into events, and puts the parts together."""
