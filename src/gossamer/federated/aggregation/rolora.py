"""RoLoRA: B and A learn in turns, so each mean is exact (arXiv 2409.02346)."""

from gossamer.federated.aggregation.base import Parts
from gossamer.federated.aggregation.ffa import Ffa


class Rolora(Ffa):
    """The mean of B in the first, third, ... round and of A in those between, the other fixed."""

    name = "rolora"

    def parts(self, turn: int) -> Parts:
        return frozenset("B" if turn % 2 == 0 else "A")
