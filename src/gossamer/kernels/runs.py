"""Runs: tokens of a step that meet the same adapter, side by side; cut into chunks for threads.

Punica and S-LoRA call a run a segment (SGMV); here segments are pieces of a sparse change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]


class Run(NamedTuple):
    """Consecutive tokens that meet one adapter."""

    first: int
    size: int
    slot: int
    """The adapter's number among those of the step."""
    weight: float = 1.0
    """The factor of what the adapter adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Short pieces of runs, in the order in which threads take them: plain arrays."""

    first: IntArray  # [C]
    count: IntArray  # [C]
    slot: IntArray  # [C]
    weight: npt.NDArray[np.float32]  # [C]
    bounds: IntArray  # [workers + 1] chunks of each worker: equal cost

    def __len__(self) -> int:
        return len(self.first)


def cut(
    runs: Sequence[Run], longest: int, num_workers: int, cost: Callable[[int, int], float]
) -> Chunks:
    """Cut `runs` into chunks of at most `longest` tokens and share them out.

    cost: of a chunk, by slot and number of tokens. Runs over the same tokens must follow each other
    in `runs`: their chunks then stay with one worker, in that order.
    """
    units: list[list[Run]] = []
    for bundle in _bundles(runs):
        first, total = bundle[0][:2]
        for low in range(first, first + total, longest):
            size = min(longest, first + total - low)
            units.append([run._replace(first=low, size=size) for run in bundle])
    costs = [int(sum(cost(piece.slot, piece.size) for piece in unit)) for unit in units]
    order, bounds = balance(costs, num_workers)
    sizes = np.cumsum([0, *(len(units[i]) for i in order)])
    pieces = [piece for i in order for piece in units[i]]
    columns = np.array([piece[:3] for piece in pieces], dtype=np.int32).reshape(-1, 3)
    first, count, slot = np.ascontiguousarray(columns.T)
    return Chunks(
        first=first,
        count=count,
        slot=slot,
        weight=np.array([piece.weight for piece in pieces], dtype=np.float32),
        bounds=sizes[np.array(bounds)].astype(np.int32),
    )


def _bundles(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs over the same tokens, together."""
    bundles: list[list[Run]] = []
    for run in runs:
        if bundles and bundles[-1][0][:2] == run[:2]:
            bundles[-1].append(run)
        else:
            bundles.append([run])
    return bundles


def balance(costs: Sequence[int], num_groups: int) -> tuple[list[int], list[int]]:
    """Divide items among `num_groups` so that the dearest group is cheap (largest item first).

    Returns the items in group order, and the bounds of the groups in that list.
    """
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    loads = [0] * num_groups
    for item in sorted(range(len(costs)), key=lambda i: -costs[i]):
        lightest = loads.index(min(loads))
        groups[lightest].append(item)
        loads[lightest] += costs[item]
    bounds = [0]
    for group in groups:
        bounds.append(bounds[-1] + len(group))
    return [item for group in groups for item in sorted(group)], bounds
