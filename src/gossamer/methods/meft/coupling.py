"""The two equations of a reversible layer, and their inverse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

Half = Callable[[Tensor], Tensor]
"""F or G: a stream [batch, tokens, d] to what is added to the other one, in the streams' type."""


@dataclass(frozen=True, slots=True)
class Coupling:
    """y1 = lam x1 + F(x2), y2 = beta x2 + G(y1); with `swapped` the next layer's x1 is y2 and its
    x2 is y1 (arXiv 2306.00477, section 3.2)."""

    first: Half
    """F."""
    second: Half
    """G."""
    lam: float
    beta: float
    swapped: bool

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next layer's (x1, x2)."""
        y1 = self.lam * x1 + self.first(x2)
        y2 = self.beta * x2 + self.second(y1)
        return self.turn(y1, y2)

    def inverse(self, next1: Tensor, next2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x1, x2) of the next layer's: x2 = (y2 - G(y1)) / beta, x1 = (y1 - F(x2)) / lam.

        Each divides the error of what it is given by its factor.
        """
        y1, y2 = self.turn(next1, next2)
        x2 = (y2 - self.second(y1)) / self.beta
        return (y1 - self.first(x2)) / self.lam, x2

    def turn(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        """Swap the two, if they are swapped between layers; its own inverse."""
        return (two, one) if self.swapped else (one, two)


def run_plainly(layers: Sequence[Coupling], x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the streams after all layers; under autograd every layer keeps all it needs."""
    for layer in layers:
        x1, x2 = layer.forward(x1, x2)
    return x1, x2


def reconstruction_errors(layers: Sequence[Coupling], x1: Tensor, x2: Tensor) -> list[float]:
    """Run all layers and invert them from the last to the first without anchors.

    Returns the relative error (norm of the difference over the norm) of the worse of both streams
    below the last layer, below the last but one, and so on. Call it without gradients.
    """
    states = [(x1, x2)]
    for layer in layers:
        states.append(layer.forward(*states[-1]))
    found, errors = states[-1], []
    for layer, true in zip(reversed(layers), reversed(states[:-1]), strict=True):
        found = layer.inverse(*found)
        pairs = zip(found, true, strict=True)
        errors.append(max(((one - two).norm() / two.norm()).item() for one, two in pairs))
    return errors
