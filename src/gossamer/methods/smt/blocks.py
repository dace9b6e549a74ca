"""Blocks of a weight matrix, and how much the gradient says each matters."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Block(NamedTuple):
    """A rectangle of a weight matrix W [out, in]."""

    row: int
    column: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Count the weights in the block."""
        return self.height * self.width


def cut(shape: tuple[int, int], block_size: int) -> list[Block]:
    """Cut a matrix [out, in] into blocks, row by row.

    They are squares of `block_size`; where it does not divide a dimension, the last ones are
    smaller, so that each weight is in exactly one block.
    """
    rows, columns = shape
    return [
        Block(row, column, min(block_size, rows - row), min(block_size, columns - column))
        for row in range(0, rows, block_size)
        for column in range(0, columns, block_size)
    ]


def block_scores(gradient: Tensor, block_size: int, criterion: str) -> Tensor:
    """Score each block of `gradient` [out, in], in the order of `cut`, as float32.

    `criterion`, of the entries of one block: `mean_abs` |mean|, in which signs cancel; `abs_mean`
    mean of magnitudes; `L1` sum of magnitudes; `L2` root of the sum of squares. Smaller blocks at
    the edges count only the entries they have. The first two names read as if swapped; they are
    those of the released code of SMT (arXiv 2405.15525).
    """
    return _CRITERIA[criterion](gradient.float(), block_size).flatten()


def _sums(values: Tensor, size: int) -> Tensor:
    """Sum over each block: [ceil(out / size), ceil(in / size)]."""
    rows, columns = values.shape
    padded = F.pad(values, (0, -columns % size, 0, -rows % size))
    tall, wide = padded.shape
    return padded.view(tall // size, size, wide // size, size).sum((1, 3))


def _mean_abs(values: Tensor, size: int) -> Tensor:
    return _sums(values, size).abs() / _counts(values, size)


def _abs_mean(values: Tensor, size: int) -> Tensor:
    return _sums(values.abs(), size) / _counts(values, size)


def _l1(values: Tensor, size: int) -> Tensor:
    return _sums(values.abs(), size)


def _l2(values: Tensor, size: int) -> Tensor:
    return _sums(values.square(), size).sqrt()


def _counts(values: Tensor, size: int) -> Tensor:
    return _sums(torch.ones_like(values), size)


_CRITERIA: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean_abs": _mean_abs,
    "abs_mean": _abs_mean,
    "L1": _l1,
    "L2": _l2,
}
