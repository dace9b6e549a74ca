"""What all processor kernels share: how many threads they use."""

import numba


def use_threads(count: int) -> None:
    """Have kernels that are called from this thread use `count` threads, or all there are."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
