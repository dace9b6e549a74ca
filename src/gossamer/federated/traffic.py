"""Counts the bytes that clients and server send each other: the values of tensors, as they are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gossamer.federated.aggregation.tensors import FactorPair


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one round, all clients together."""

    up: int = 0
    """From clients to the server."""
    down: int = 0
    """From the server to clients."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.up + other.up, self.down + other.down)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of the values of `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def pair_bytes(pairs: Iterable[FactorPair]) -> int:
    """Return the bytes of the values of `pairs`."""
    return sum(pair.size * pair.a.element_size() for pair in pairs)
