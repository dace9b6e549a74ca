"""The masks of grammars on logits: both ways to apply them, on the rows that have one alone."""

import numpy as np
import pytest
import torch

from gossamer.serving.runner.sampling.grammar_masks import forbid_by_grammars, forbid_on_device


class Grammar:
    must_end = False

    def __init__(self, allowed, size):
        bits = np.zeros(-(-size // 32) * 32, dtype=np.uint8)
        bits[allowed] = 1
        self._mask = np.packbits(bits, bitorder="little")

    def mask(self):
        return self._mask


def on_device(logits, grammars):
    """As on a GPU, where masks are unpacked with tensors."""
    rows = [row for row, grammar in enumerate(grammars) if grammar is not None]
    masks = np.stack([grammars[row].mask() for row in rows])
    forbid_on_device(logits, rows, masks)


@pytest.mark.parametrize("apply", [forbid_by_grammars, on_device])
@pytest.mark.parametrize("size", [1, 7, 32, 77])
@pytest.mark.parametrize("free", [(), (1,), (0, 2)])
def test_what_is_not_allowed_is_impossible(apply, size, free):
    rng = np.random.default_rng(size)
    logits = torch.from_numpy(rng.standard_normal((4, size)).astype(np.float32))
    allowed = [np.flatnonzero(rng.random(size) < 0.5) for _ in range(4)]
    grammars = [None if row in free else Grammar(allowed[row], size) for row in range(4)]
    want = logits.clone()
    for row in range(4):
        if row not in free:
            forbidden = np.setdiff1d(np.arange(size), allowed[row])
            want[row, torch.from_numpy(forbidden)] = -torch.inf
    apply(logits, grammars)
    assert torch.equal(logits, want)
