"""Shift: each token's outputs of a layer or a norm, plus a vector of its own adapter.

Of a linear layer y += d, where d is what was learnt of its bias (BitFit, arXiv 2106.10199). Of a
norm y += d * x, where x is the normed input and d what was learnt of its weight (arXiv 2312.11420).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShiftTable:
    """Places of one resident adapter's vectors, float32; V vectors of the whole model."""

    offsets: LongArray
    """Shape [V]: place of each vector in the pool, in elements; -1: the adapter has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftBatch:
    """The N pairs of a token and an adapter that has vectors; tensors are where the pool is."""

    offsets: Tensor
    """Shape [U, V], int64: the tables of the step's adapters."""
    used: npt.NDArray[np.bool_]
    """Shape [V]: whether any adapter of the step has the vector."""
    token: Tensor
    """Shape [N], int64."""
    slot: Tensor
    """Shape [N], int64: which row of `offsets`."""
    weight: Tensor
    """Shape [N], float32: the factor of what the adapter adds."""


def make_shifts(
    runs: Sequence[tuple[int, int, ShiftTable, float]], device: torch.device
) -> ShiftBatch:
    """Describe a step of `runs` (first token, number of tokens, table, weight), one at least."""
    slots: dict[int, int] = {}
    tables: list[ShiftTable] = []
    for _, _, table, _ in runs:
        if id(table) not in slots:
            slots[id(table)] = len(tables)
            tables.append(table)
    counts = [count for _, count, _, _ in runs]
    offsets = np.stack([table.offsets for table in tables])
    token = np.concatenate([np.arange(first, first + count) for first, count, _, _ in runs])
    slot = np.repeat([slots[id(table)] for _, _, table, _ in runs], counts)
    weight = np.repeat(np.array([weight for *_, weight in runs], dtype=np.float32), counts)
    return ShiftBatch(
        offsets=torch.from_numpy(offsets).to(device),
        used=np.asarray((offsets >= 0).any(axis=0)),
        token=torch.from_numpy(token.astype(np.int64)).to(device),
        slot=torch.from_numpy(slot.astype(np.int64)).to(device),
        weight=torch.from_numpy(weight).to(device),
    )


def add_vectors_(
    y: Tensor, pool: Tensor, vector: int, batch: ShiftBatch, times: Tensor | None = None
) -> None:
    """y[t, g] += weight * d of the token's adapters, in place; times[t, g] as well, if given.

    y, times: [T, groups, n]; pool: the block pool as float32; vector: its number.
    """
    offset = batch.offsets[batch.slot, vector]
    columns = torch.arange(y.shape[-1], device=y.device)
    rows = pool[offset.clamp(min=0)[:, None] + columns] * batch.weight[:, None]
    # What lies in the pool's first block need be no number.
    rows = torch.where((offset >= 0)[:, None], rows, 0.0)[:, None]
    change = rows.expand(-1, y.shape[1], -1) if times is None else rows * times[batch.token].float()
    y.index_add_(0, batch.token, change.to(y.dtype))
