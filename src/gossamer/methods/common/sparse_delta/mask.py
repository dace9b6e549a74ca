"""Random masks that a seed alone decides: the same on every machine and in every release."""

import hashlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def num_entries(shape: tuple[int, int], density: float) -> int:
    """Count the entries of a mask of that density on a matrix of that shape; at least one."""
    return max(1, round(density * shape[0] * shape[1]))


def random_entries(seed: int, name: str, shape: tuple[int, int], density: float) -> Tensor:
    """Draw places (row, column) without replacement, int32 [2, n], sorted row by row.

    They depend on the arguments alone: a counter, keyed by seed and name, is hashed (SplitMix64,
    Steele et al. 2014), and places that came before are passed over.
    """
    count, size = num_entries(shape, density), shape[0] * shape[1]
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    start = np.uint64(int.from_bytes(key, "little"))
    if 2 * count > size:
        # The places left out are the fewer; drawing the others one by one would take long.
        left_out = _draw(start, size - count, size)
        return as_index(torch.from_numpy(np.delete(np.arange(size), left_out)), shape)
    return as_index(torch.from_numpy(np.sort(_draw(start, count, size))), shape)


def as_index(flat: Tensor, shape: tuple[int, int]) -> Tensor:
    """Turn sorted positions in the flattened matrix into rows and columns, int32 [2, n]."""
    return torch.stack([flat // shape[1], flat % shape[1]]).to(torch.int32)


def _draw(start: np.uint64, count: int, size: int) -> np.ndarray:
    """`count` different numbers below `size`, in the order in which they first come."""
    found = np.empty(0, dtype=np.int64)
    drawn = 0
    while len(found) < count:
        more = count - len(found) + 16
        numbers = _hash(start, drawn, more) % np.uint64(size)
        drawn += more
        found = np.concatenate([found, numbers.astype(np.int64)])
        _, first = np.unique(found, return_index=True)
        found = found[np.sort(first)]
    return found[:count]


def _hash(start: np.uint64, first: int, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = start + _GOLDEN * np.arange(first + 1, first + count + 1, dtype=np.uint64)
        for shift, factor in _MIX:
            state = (state ^ (state >> shift)) * factor
        return state ^ (state >> np.uint64(31))
