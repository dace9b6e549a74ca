"""Lets TRL's fused loss multiply only the positions that count by the output head."""

from collections.abc import Iterator
from contextlib import contextmanager

from trl.trainer import utils


@contextmanager
def trained_tokens_only() -> Iterator[None]:
    """Let TRL's fused loss multiply only the positions with a label by the output head.

    By itself it does so where Triton runs, and scores all positions elsewhere, padding included,
    for the sake of accelerators that compile again for each shape. On a CPU that is only waste: the
    head of a small model with a large vocabulary is a third of the step. The losses are the same.
    The choice is a private function of TRL's, replaced here for as long as a loss is computed. TRL
    below 1.16 has no such choice: it leaves the others out by itself, on every device.
    """
    before = getattr(utils, "_use_triton", None)
    if before is None:
        yield
        return
    utils._use_triton = lambda device: device.type == "cpu" or before(device)
    try:
        yield
    finally:
        utils._use_triton = before
