"""Matrices and vectors of an adapter's networks as rows in blocks, and where each lies then."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.trained_parts.placed import PlacedLinear, PlacedNorm
from gossamer.serving.packing.capacity import FLOAT
from gossamer.serving.packing.target import PackTarget
from gossamer.serving.packing.trained_parts.token_rows import pieces_of
from gossamer.serving.packing.vectors import LongArray, Vectors, pack_vectors


def pack_matrices(name: str, tensors: Sequence[Tensor], target: PackTarget) -> Vectors:
    """Lay out matrices [m, n] by their rows and vectors [n] as one row, as float32.

    Raises `UnsupportedAdapterError` for a row that is longer than a block.
    """
    counts = [len(tensor) if tensor.dim() == 2 else 1 for tensor in tensors]
    widths = [tensor.shape[-1] for tensor in tensors]
    longest = max(widths) * FLOAT
    if longest > target.block_bytes:
        token_bytes = target.block_bytes // target.layout.block_tokens
        raise UnsupportedAdapterError(
            f"adapter {name}: a row of its networks takes {longest} bytes, and a block has "
            f"{target.block_bytes}; serve with --block-tokens {-(-longest // token_bytes)} or more"
        )
    data = target.empty(sum(tensor.numel() for tensor in tensors), torch.float32)
    low = 0
    for tensor in tensors:
        data[low : low + tensor.numel()].view(tensor.shape).copy_(tensor)
        low += tensor.numel()
    return pack_vectors(data, np.repeat(widths, counts), target.block_bytes)


class PlaceReader:
    """Tells where tensors lie that were packed and written, in the order of their packing."""

    def __init__(self, offsets: LongArray) -> None:
        """offsets: of the rows in the pool, in elements."""
        self._offsets = offsets
        self._row = 0

    def vector(self) -> int:
        """Return the place of a vector."""
        self._row += 1
        return int(self._offsets[self._row - 1])

    def linear(self, rows: int, columns: int) -> PlacedLinear:
        """Return where a matrix [rows, columns] lies and the bias behind it."""
        offsets = self._offsets[self._row : self._row + rows]
        self._row += rows
        pieces = tuple((place, count) for place, _, count in pieces_of(offsets, columns))
        return PlacedLinear(pieces=pieces, columns=columns, bias=self.vector())

    def norm(self, columns: int) -> PlacedNorm:
        """Return where the weight of a norm lies and the bias behind it."""
        return PlacedNorm(weight=self.vector(), bias=self.vector(), columns=columns)
