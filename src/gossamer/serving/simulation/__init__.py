"""Runs the real scheduler on a pretended machine: hours of traffic in seconds, no tensors."""
