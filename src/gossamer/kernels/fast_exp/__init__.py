"""The exponential that other kernels share; not an operation of its own."""
