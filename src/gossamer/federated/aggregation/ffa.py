"""FFA-LoRA: A is frozen, so the mean of B is exact (arXiv 2403.12313)."""

from gossamer.federated.aggregation.base import Parts
from gossamer.federated.aggregation.fedit import Fedit


class Ffa(Fedit):
    """B = sum w_i B_i with the A that all clients began with: half the bytes, and no error."""

    name = "ffa"
    exact = True

    def parts(self, turn: int) -> Parts:
        return frozenset("B")
