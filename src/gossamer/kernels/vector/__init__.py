"""The small loops over vectors that the processor kernels share; no operation of their own."""
