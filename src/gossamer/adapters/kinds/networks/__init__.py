"""Kinds that put networks of their own into a model: bottlenecks, side networks, two streams."""
