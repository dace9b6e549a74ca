"""Vectors of any widths in blocks: where each goes, and putting it there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorLayout:
    """The places of vectors one behind the other, and in blocks: none straddles two."""

    bounds: LongArray
    """[n + 1] vector i is elements bounds[i] to bounds[i + 1]."""
    starts: LongArray
    """[blocks + 1] first vector of each block."""
    block_elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Vectors in host memory."""

    data: Tensor
    """All elements."""
    layout: VectorLayout

    @property
    def num_blocks(self) -> int:
        """Blocks that the vectors take."""
        return len(self.layout.starts) - 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors; the unused ends of blocks are not counted."""
        return self.data.numel() * self.data.element_size()

    def write(self, pool: Tensor, blocks: Sequence[int]) -> LongArray:
        """Copy the vectors into `blocks` of the pool's bytes; returns their offsets in elements."""
        elements = pool.view(self.data.dtype)
        bounds, starts = self.layout.bounds, self.layout.starts
        offsets = np.empty(len(bounds) - 1, dtype=np.int64)
        for block, first, last in zip(blocks, starts[:-1], starts[1:], strict=True):
            low, high = bounds[first], bounds[last]
            origin = block * self.layout.block_elements
            elements[origin : origin + high - low] = self.data[low:high]
            offsets[first:last] = origin + bounds[first:last] - low
        return offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPart:
    """Base of the parts of an adapter that are vectors in host memory."""

    vectors: Vectors

    @property
    def num_blocks(self) -> int:
        """Blocks that the vectors take."""
        return self.vectors.num_blocks

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors."""
        return self.vectors.num_bytes


def pack_vectors(data: Tensor, widths: npt.ArrayLike, block_bytes: int) -> Vectors:
    """Lay out vectors of `widths`, which lie one behind the other in `data`."""
    layout = lay_out_vectors(widths, block_bytes // data.element_size())
    return Vectors(data=data.contiguous(), layout=layout)


def lay_out_vectors(widths: npt.ArrayLike, block_elements: int) -> VectorLayout:
    """Lay out vectors of `widths` for blocks of `block_elements`."""
    bounds = np.concatenate([[0], np.cumsum(np.asarray(widths, dtype=np.int64))]).astype(np.int64)
    starts = block_starts(bounds, block_elements)
    return VectorLayout(bounds=bounds, starts=starts, block_elements=block_elements)


def block_starts(bounds: LongArray, block_elements: int) -> LongArray:
    """Return the first vector of each block, and the number of vectors, given their bounds.

    A vector that would straddle two blocks begins the next one, so a block may end with less than a
    vector unused.
    """
    count = len(bounds) - 1
    starts = [0]
    while starts[-1] < count:
        end = int(np.searchsorted(bounds, bounds[starts[-1]] + block_elements, side="right")) - 1
        assert end > starts[-1], f"a vector exceeds a block of {block_elements} elements"
        starts.append(end)
    return np.array(starts, dtype=np.int64)


def join(rows: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Put rows one behind the other as float32; returns them and their widths."""
    flat = [row.to(torch.float32).reshape(-1) for row in rows]
    return torch.cat(flat), [len(row) for row in flat]
