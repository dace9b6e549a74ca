"""What every aggregation is: which factors learn in a round, and what is made of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Tensors,
    Upload,
    client_pairs,
    norm_of,
    pair_names,
    sum_of,
)

Parts = frozenset[str]
BOTH: Parts = frozenset("AB")


@dataclass(frozen=True, slots=True)
class Combined:
    """What the server has after a round."""

    tensors: Tensors
    """With what the next round begins."""
    merged: dict[str, FactorPair] = field(default_factory=dict)
    """What is added to the weights of the base, over the scale, by the path of the layer."""
    drawn: bool = False
    """Whether clients can draw `tensors` from a seed, so that none of them is sent."""


class Aggregation(ABC):
    """A way to make one adapter of several. It has no state, and does not know who sends."""

    name: ClassVar[str]
    exact: ClassVar[bool]
    """Whether the result is the mean of the clients' products, but for rounding."""
    sums_only: ClassVar[bool] = False
    """Whether weighted sums of what clients send are all that the server looks at, as secure
    aggregation needs."""

    def parts(self, turn: int) -> Parts:
        """Tell which factors learn in a round; `turn` counts rounds from 0."""
        return BOTH

    @abstractmethod
    def combine(
        self, before: Mapping[str, Tensor], uploads: Sequence[Upload], *, seed: int
    ) -> Combined:
        """Make what the next round begins with of what this one brought.

        `before` is what this round began with, at the server's rank; the weights of `uploads` add
        up to one. Whatever is drawn follows from `seed`.
        """


def distance_to_mean(
    before: Mapping[str, Tensor], uploads: Sequence[Upload], combined: Combined
) -> float | None:
    """Return how far the server's product is from the mean of the clients' products: the Frobenius
    norm of the difference over that of the mean, all layers together. None without factors."""
    missed = whole = 0.0
    weights = [upload.weight for upload in uploads]
    for path, names in pair_names(before).items():
        ideal = sum_of(client_pairs(names, before, uploads), weights)
        held = FactorPair(*(combined.tensors[name] for name in names))
        parts, signs = [ideal, held], [1.0, -1.0]
        if path in combined.merged:
            parts.append(combined.merged[path])
            signs.append(-1.0)
        missed += norm_of(sum_of(parts, signs)) ** 2
        whole += norm_of(ideal) ** 2
    return None if whole == 0 else (missed / whole) ** 0.5
