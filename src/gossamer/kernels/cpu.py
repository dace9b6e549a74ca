"""What all processor kernels share: how many threads they use, and word of their compilation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
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

    # The event comes after Numba has looked for the kernel on disk in vain.
    with event.install_listener("numba:compile", Listener()):
        yield
