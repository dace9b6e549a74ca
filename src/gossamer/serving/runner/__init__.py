"""Runs one step on the model: the arrays of a batch, the layers that use them, the sampler."""
