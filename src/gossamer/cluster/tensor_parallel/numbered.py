"""Adapters with the number by which ranks speak of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.resident import Resident


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedResident(Resident):
    """An adapter in the pool of a rank."""

    number: int


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedAdapter(HostAdapter):
    """The share of an adapter that a rank has in host memory."""

    number: int

    @classmethod
    def of(cls, share: HostAdapter, number: int) -> "NumberedAdapter":
        """Give `share` its number."""
        return cls(**_fields_of(share), number=number)

    def place(self, pool: Tensor, blocks: Sequence[int]) -> NumberedResident:
        """Copy everything into the first of `blocks`: ranks with less leave the last ones empty."""
        placed = HostAdapter.place(self, pool, blocks[: self.num_blocks])
        return NumberedResident(**_fields_of(placed), number=self.number)


class MergedLayers(dict[Any, Any]):
    """Base layers with an adapter in their weights, by those whose places they take.

    The rows stay with them: they go together.
    """

    def __init__(self, layers: Mapping[Any, Any], rows: NumberedAdapter) -> None:
        super().__init__(layers)
        self.rows = rows


def _fields_of(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in fields(instance)}
