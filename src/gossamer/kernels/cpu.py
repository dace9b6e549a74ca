"""What all processor kernels share: how many threads they use, and word of their compilation."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.core import event


def use_threads(count: int) -> None:
    """Have kernels that are called from this thread use `count` threads, or all there are."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


@contextmanager
def on_compilation(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` once, when the first kernel inside is compiled; not for those kept on disk."""
    told = False

    class Listener(event.Listener):
        def on_start(self, started: Any) -> None:
            nonlocal told
            if not told:
                told = True
                tell()

        def on_end(self, ended: Any) -> None:
            pass

    # The event comes after Numba has looked for the kernel on disk and not found it.
    with event.install_listener("numba:compile", Listener()):
        yield


# Sums may be reordered and multiply-adds fused (so that loops vectorise); NaN stays NaN.
FAST = {"reassoc", "contract", "nsz", "arcp"}
_LOG2_E = np.float32(math.log2(math.e))
_LN_2 = np.float32(math.log(2.0))


@njit(cache=True, nogil=True, fastmath=FAST, inline="always")
def fast_exp(x):
    """e^x for float32 x <= 0, relative error below 1e-6; below e^-87 the smallest normal number.

    2^n * p(f), p the Taylor polynomial of e^(f ln 2) of degree 7 on |f| <= 1/2: the library's exp
    does not vectorise and cost more than the products around it.
    """
    scaled = max(x * _LOG2_E, np.float32(-126.0))
    n = np.floor(scaled + np.float32(0.5))
    f = (scaled - n) * _LN_2
    p = np.float32(1.0 / 5040.0)
    p = p * f + np.float32(1.0 / 720.0)
    p = p * f + np.float32(1.0 / 120.0)
    p = p * f + np.float32(1.0 / 24.0)
    p = p * f + np.float32(1.0 / 6.0)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1.0)
    p = p * f + np.float32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(cache=True, nogil=True, fastmath=FAST)
def dot(x, y):
    """The scalar product of two vectors."""
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += x[d] * y[d]
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def add_scaled(y, weight, x):
    """y += weight * x, in place."""
    for d in range(y.shape[0]):
        y[d] += weight * x[d]


@njit(cache=True, nogil=True)
def largest(values):
    """The largest of whole numbers, 0 if there are none.

    For kernels whose loops run in parallel: Numba makes a parallel loop of its own of a `max()` in
    them, which is compiled and launched for nothing.
    """
    found = 0
    for k in range(values.shape[0]):
        found = max(found, values[k])
    return found
