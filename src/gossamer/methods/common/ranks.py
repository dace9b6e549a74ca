"""What the processes of a run tell each other: who is who, sums, agreements.

Where one process trains, all of it is the identity. What is exchanged lies in the host's memory and
is small, but for `add_over_ranks`. Every rank makes the same calls in the same order; one that has
ended makes the others' calls raise `RuntimeError`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_first() -> bool:
    """Whether this process writes the files and talks to the user."""
    return rank() == 0


def meet() -> None:
    """Wait until all are here."""
    if world() > 1:
        dist.barrier()


def sum_over_ranks(numbers: Sequence[float]) -> list[float]:
    """The sums of the numbers of all ranks, one by one, in float64."""
    if world() == 1:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def mean_over_ranks(figures: Mapping[str, float], weight: float) -> dict[str, float]:
    """The means of figures that all ranks have, each rank's weighing `weight`."""
    if world() == 1:
        return dict(figures)
    *sums, total = sum_over_ranks([*(value * weight for value in figures.values()), weight])
    return {name: value / max(total, 1e-9) for name, value in zip(figures, sums, strict=True)}


def any_over_ranks(flag: bool) -> bool:
    """Whether `flag` is true on some rank."""
    return sum_over_ranks([float(flag)])[0] > 0


def gather_over_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on every rank; pickled, so of our own making."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def add_over_ranks(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Add what the other ranks have to `tensors` in place; `device` is that of the model, on which
    ranks can exchange tensors."""
    if world() == 1:
        return
    for tensor in tensors:
        shared = tensor.to(device)
        dist.all_reduce(shared)
        tensor.copy_(shared)
