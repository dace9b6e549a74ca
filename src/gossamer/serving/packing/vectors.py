"""Vectors of any widths in blocks: where each goes, and putting it there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.kernels.module_header import ALIGNMENT

LongArray = npt.NDArray[np.int64]

Empty = Callable[[int, torch.dtype], Tensor]
"""Allocates elements of a type in host memory, from which the pool's device may copy while the host
goes on (pinned memory for a GPU)."""


def host_empty(count: int, dtype: torch.dtype) -> Tensor:
    """Allocate `count` elements in ordinary host memory."""
    return torch.empty(count, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorLayout:
    """The places of vectors one behind the other, and in blocks: none straddles two."""

    bounds: LongArray
    """[n + 1] vector i is elements bounds[i] to bounds[i + 1]."""
    starts: LongArray
    """[blocks + 1] first vector of each block."""
    block_elements: int
    used: int = 0
    """Elements at the beginning of the first block that are taken by others."""

    @property
    def used_at_end(self) -> int:
        """Elements of the last block that are taken; 0 without blocks."""
        if len(self.starts) < 2:
            return 0
        own = int(self.bounds[self.starts[-1]] - self.bounds[self.starts[-2]])
        return own + (self.used if len(self.starts) == 2 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Vectors in host memory."""

    data: Tensor
    """All elements; what pads vectors lies behind each."""
    layout: VectorLayout

    @property
    def num_blocks(self) -> int:
        """Blocks that the vectors take."""
        return len(self.layout.starts) - 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors; the unused ends of blocks are not counted."""
        return self.data.numel() * self.data.element_size()

    def offsets(self, blocks: Sequence[int]) -> LongArray:
        """Return where each vector lies in the pool if these are its blocks, in elements."""
        bounds, starts = self.layout.bounds, self.layout.starts
        origins = np.array(blocks, dtype=np.int64) * self.layout.block_elements
        if len(origins):
            origins[0] += self.layout.used
        shift = np.repeat(origins - bounds[starts[:-1]], np.diff(starts))
        return bounds[:-1] + shift

    def write(self, pool: Tensor, blocks: Sequence[int]) -> LongArray:
        """Copy the vectors into `blocks` of the pool's bytes; returns their offsets in elements.

        The pool may be on another device, and the data may be pinned: then copies are only begun.
        """
        elements = pool.view(self.data.dtype)
        bounds, starts = self.layout.bounds, self.layout.starts
        used = self.layout.used
        for block, first, last in zip(blocks, starts[:-1], starts[1:], strict=True):
            low, high = bounds[first], bounds[last]
            origin = block * self.layout.block_elements + used
            elements[origin : origin + high - low].copy_(self.data[low:high], non_blocking=True)
            used = 0
        return self.offsets(blocks)


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


def lay_out_vectors(widths: npt.ArrayLike, block_elements: int, used: int = 0) -> VectorLayout:
    """Lay out vectors of `widths` for blocks of `block_elements`; the first is taken up to `used`,
    and may get none of them."""
    bounds = np.concatenate([[0], np.cumsum(np.asarray(widths, dtype=np.int64))]).astype(np.int64)
    starts = block_starts(bounds, block_elements, used)
    return VectorLayout(bounds=bounds, starts=starts, block_elements=block_elements, used=used)


def block_starts(bounds: LongArray, block_elements: int, used: int = 0) -> LongArray:
    """Return the first vector of each block, and the number of vectors, given their bounds.

    A vector that would straddle two blocks begins the next one, so a block may end with less than a
    vector unused. The first block is taken up to `used`.
    """
    count = len(bounds) - 1
    starts = [0]
    room = block_elements - used
    while starts[-1] < count:
        end = int(np.searchsorted(bounds, bounds[starts[-1]] + room, side="right")) - 1
        assert end > starts[-1] or room < block_elements, (
            f"a vector exceeds a block of {block_elements} elements"
        )
        starts.append(end)
        room = block_elements
    return np.array(starts, dtype=np.int64)


def padded(widths: npt.ArrayLike, itemsize: int) -> LongArray:
    """Round widths, in elements of `itemsize` bytes, up to whole `ALIGNMENT`s, which blocks
    are as well."""
    step = ALIGNMENT // itemsize
    return -(-np.asarray(widths, dtype=np.int64) // step) * step


def join(
    rows: Sequence[Tensor], empty: Empty = host_empty, *, aligned: bool = False
) -> tuple[Tensor, LongArray]:
    """Put rows one behind the other as float32; returns them and their widths.

    aligned: pad each with zeros to whole 16 bytes, and count that as its width.
    """
    widths = np.array([len(row) for row in rows], dtype=np.int64)
    places = padded(widths, 4) if aligned else widths
    data = empty(int(places.sum()), torch.float32)
    if (places != widths).any():
        data.zero_()
    lows = np.cumsum(places) - places
    for row, low, width in zip(rows, lows.tolist(), widths.tolist(), strict=True):
        data[low : low + width] = row
    return data, places
