"""Runs: tokens of a step that meet the same adapter, side by side; cut into chunks for threads.

Punica and S-LoRA call a run a segment (SGMV); here segments are pieces of a sparse change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import accumulate
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
        if total <= longest:
            units.append(bundle)
            continue
        for low in range(first, first + total, longest):
            size = min(longest, first + total - low)
            units.append([Run(low, size, run.slot, run.weight) for run in bundle])
    costs = [int(sum([cost(slot, size) for _, size, slot, _ in unit])) for unit in units]
    order, bounds = balance(costs, num_workers)
    sizes = list(accumulate([len(units[i]) for i in order], initial=0))
    pieces = [piece for i in order for piece in units[i]]
    firsts, counts, slots, weights = zip(*pieces, strict=True) if pieces else ((), (), (), ())
    return Chunks(
        first=np.array(firsts, dtype=np.int32),
        count=np.array(counts, dtype=np.int32),
        slot=np.array(slots, dtype=np.int32),
        weight=np.array(weights, dtype=np.float32),
        bounds=np.array([sizes[bound] for bound in bounds], dtype=np.int32),
    )


def _bundles(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs over the same tokens, together."""
    bundles: list[list[Run]] = []
    before = None
    for run in runs:
        tokens = run[:2]
        if tokens == before:
            bundles[-1].append(run)
        else:
            bundles.append([run])
        before = tokens
    return bundles


def balance(costs: Sequence[int], num_groups: int) -> tuple[list[int], list[int]]:
    """Divide items among `num_groups` so that the dearest group is cheap (largest item first).

    Returns the items in group order, and the bounds of the groups in that list.
    """
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    # The cheapest group stands first.
    loads = [(0, group) for group in range(num_groups)]
    # Reversed, the sort keeps equal items in their order all the same.
    for item in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        load, lightest = loads[0]
        groups[lightest].append(item)
        heapreplace(loads, (load + costs[item], lightest))
    bounds = [0]
    for group in groups:
        bounds.append(bounds[-1] + len(group))
    return [item for group in groups for item in sorted(group)], bounds
