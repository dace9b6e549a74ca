"""A pool of blocks that is not a number wherever nothing was written."""

import numpy as np
import torch

BLOCK_BYTES = 1024
WIDTHS = (19, 44, 7)
"""h_out of the modules of the group; none is a multiple of 8."""
MODULES = (2, 0, 3)
"""Their ids; the whole model has five modules."""
NUM_MODULES = 5
H_IN = 37


class Pool:
    """Hands out scattered blocks for what serving packs."""

    def __init__(self, num_blocks=600, seed=0):
        self.memory = torch.full((num_blocks * BLOCK_BYTES // 4,), float("nan")).view(torch.uint8)
        self._free = np.random.default_rng(seed).permutation(num_blocks).tolist()

    def place(self, part):
        """Write a packed part into blocks; returns its table."""
        blocks, self._free = self._free[: part.num_blocks], self._free[part.num_blocks :]
        return part.place(self.memory, blocks)


def popularity(name, count, rng):
    """Which adapter each of `count` tokens has; -1: none. Sorted, as the batch is."""
    if name == "identical":
        picks = [0] * count
    elif name == "distinct":
        picks = list(range(count))
    elif name == "uniform":
        picks = [rng.randrange(-1, 8) for _ in range(count)]
    elif name == "zipf":
        picks = rng.choices(range(20), weights=[1 / (i + 1) for i in range(20)], k=count)
    else:
        picks = [0] * (count - 3) + [1, 2, 3]
    return sorted(picks)


def to_runs(picks):
    """(first, count, slot) of equal neighbours."""
    runs = []
    for token, slot in enumerate(picks):
        if slot < 0:
            continue
        if runs and runs[-1][2] == slot:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, slot)
        else:
            runs.append((token, 1, slot))
    return runs


PATTERNS = ["distinct", "uniform", "zipf", "identical", "skewed"]
