"""Bundles: how a step's runs are cut for a GPU, where one program owns its tokens.

A bundle is a few consecutive tokens that meet the same adapters, its entries: one for most tokens,
several for a blend. One program walks the entries in order, so that no two programs write one
token. All sizes are in the arrays, and the arrays have a fixed length: a captured graph freezes
whole numbers among the arguments of a launch, but reads arrays again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.runs import Run


class Grid(NamedTuple):
    """The fixed lengths of the arrays of a step."""

    bundles: int
    entries: int
    rows: int
    """Pairs of a token and an entry: each has a row of its own in the scratch of a kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """The bundles of a step, the dearest first; N and E are the lengths of the grid.

    Unused bundles stand at the end, with no tokens and no entries.
    """

    first: Tensor
    """Shape [N], int32: the first token of each bundle."""
    count: Tensor
    """Shape [N], int32: its tokens, at most `tokens`; 0: the bundle is not used."""
    entry: Tensor
    """Shape [N + 1], int32: its entries are entry[n] to entry[n + 1]."""
    entry_table: Tensor
    """Shape [E], int64: where the table of an entry's adapter starts in the pool, in bytes."""
    entry_weight: Tensor
    """Shape [E], float32: the factor of what the adapter adds."""
    entry_row: Tensor
    """Shape [E], int32: the scratch row of the bundle's first token; the others follow it."""
    tokens: int
    """The most tokens of a bundle: the variant of the kernels that takes them."""
    rows: int
    """Scratch rows of the grid; none that is named above reaches beyond."""

    def to(self, device: torch.device) -> "Bundles":
        """Return the same bundles with their arrays on `device`."""
        return Bundles(
            first=self.first.to(device),
            count=self.count.to(device),
            entry=self.entry.to(device),
            entry_table=self.entry_table.to(device),
            entry_weight=self.entry_weight.to(device),
            entry_row=self.entry_row.to(device),
            tokens=self.tokens,
            rows=self.rows,
        )


def make_bundles(
    runs: Sequence[Run],
    tables: Sequence[int],
    costs: Sequence[float],
    tokens: int,
    grid: Grid | None = None,
) -> Bundles:
    """Cut `runs` into bundles of at most `tokens` tokens; the dearest stand first.

    Runs over the same tokens must follow each other in `runs`: they become one bundle with several
    entries, in that order. tables: where the table of each slot starts in the pool, in bytes;
    costs: of reading each slot's adapter, such as the sum of its ranks. grid: what the arrays are
    padded to; without one they are as long as needed. Raises `ValueError` if the bundles exceed the
    grid.
    """
    pieces = sorted(
        _pieces(runs, tokens), key=lambda piece: -sum([costs[run.slot] for run in piece])
    )
    entries = [run for piece in pieces for run in piece]
    needed = Grid(len(pieces), len(entries), sum(run.size for run in entries))
    grid = needed if grid is None else grid
    if any(n > most for n, most in zip(needed, grid, strict=True)):
        raise ValueError(f"the step needs {needed}, which exceeds {grid}")
    entry = np.full(grid.bundles + 1, len(entries), dtype=np.int32)
    entry[: len(pieces)] = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    return Bundles(
        first=_padded([piece[0].first for piece in pieces], grid.bundles, np.int32),
        count=_padded([piece[0].size for piece in pieces], grid.bundles, np.int32),
        entry=torch.from_numpy(entry),
        entry_table=_padded([tables[run.slot] for run in entries], grid.entries, np.int64),
        entry_weight=_padded([run.weight for run in entries], grid.entries, np.float32),
        entry_row=_padded(
            np.cumsum([0, *(run.size for run in entries)])[:-1].tolist(), grid.entries, np.int32
        ),
        tokens=tokens,
        rows=grid.rows,
    )


def _pieces(runs: Sequence[Run], tokens: int) -> Iterator[list[Run]]:
    """Yield the entries of each bundle, as runs over its tokens."""
    for (first, size), group in groupby(runs, key=lambda run: run[:2]):
        same = list(group)
        if size <= tokens:
            yield same
            continue
        for low in range(first, first + size, tokens):
            count = min(tokens, first + size - low)
            yield [Run(low, count, run.slot, run.weight) for run in same]


def _padded(values: Sequence[float], length: int, dtype: type[np.number]) -> Tensor:
    array = np.zeros(length, dtype=dtype)
    array[: len(values)] = values
    return torch.from_numpy(array)
