"""The learning rate of a run whose settings name none: it depends on the width of the model."""

import math
from dataclasses import dataclass

NARROW, WIDE = 576, 4096
"""The hidden sizes of the two anchors: SmolLM2-135M, where rates were swept, and models of seven
and eight billion parameters, for which rates are published."""


@dataclass(frozen=True, slots=True)
class DefaultRate:
    """A peak learning rate for every width of model.

    The wider a matrix, the further one step of Adam, which moves each weight by the rate, moves its
    outputs: so narrow models bear and need higher rates than the wide ones of the papers.
    """

    narrow: float
    """The rate at a hidden size of 576, and below."""
    wide: float
    """The rate at a hidden size of 4096, and above."""
    source: str
    """Where the two rates come from, for the help and the reference."""

    @classmethod
    def flat(cls, rate: float, *, source: str) -> "DefaultRate":
        """Make the rate of a method for which the width does not matter."""
        return cls(rate, rate, source)

    def at(self, hidden_size: int) -> float:
        """The rate for a model of that hidden size, rounded to two figures.

        Between the two anchors its logarithm is linear in the logarithm of the width.
        """
        share = math.log(hidden_size / NARROW) / math.log(WIDE / NARROW)
        share = min(1.0, max(0.0, share))
        return float(f"{self.narrow ** (1 - share) * self.wide**share:.2g}")

    def __str__(self) -> str:
        if self.narrow == self.wide:
            return f"{self.narrow:g}"
        return (
            f"{self.narrow:g} up to hidden size {NARROW}, {self.wide:g} from {WIDE} on, between"
            " them a line on logarithmic scales"
        )
