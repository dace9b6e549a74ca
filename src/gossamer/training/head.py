"""The output head works on the tokens that are learnt, on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

from trl.trainer import utils


@contextmanager
def trained_tokens_only() -> Iterator[None]:
    """Inside, TRL's fused loss multiplies only the positions with a label by the output head.

    By itself it does so where Triton runs, and scores all positions elsewhere, padding included,
    for the sake of accelerators that compile anew for each shape. On a CPU that is only waste: the
    head of a small model with a large vocabulary is a third of the step. The losses are the same.
    """
    before = utils._use_triton
    utils._use_triton = lambda device: device.type == "cpu" or before(device)
    try:
        yield
    finally:
        utils._use_triton = before
