"""The real scheduler on a pretended machine: hours of traffic in seconds, without a tensor."""
