"""Interventions: edits of hidden states at positions of the prompt (ReFT, arXiv:2404.03592)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.base_shape import BaseShape, require_shape
from gossamer.adapters.fields import REFUSED, refuse_fields, short, whole_number
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.reading.safetensors_file import SafetensorsFile
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

VARIANTS = ("loreft", "direft", "nodireft")

_PARTS = ("rotate", "weight", "bias")
_KEY = re.compile(
    r"base_model\.model\.(?:.+\.)?layers\.([0-9]{1,9})\.reft_(last_)?(rotate|weight|bias)"
)  # fmt: skip
_Side = dict[int, dict[str, Place]]
"""By decoder block: where the parts of its edit lie."""


@dataclass(frozen=True)
class Edit:
    """One edit: h' = h + R^T (W h + b - R h) for LoReFT, h + R^T (W h + b) for the others."""

    rotate: Tensor
    """R [rank, hidden]"""
    weight: Tensor
    """W [rank, hidden]"""
    bias: Tensor
    """b [rank]"""


@dataclass(frozen=True)
class InterventionAdapter(Adapter):
    """A checked intervention in memory."""

    kind: ClassVar[str] = "intervention"
    variant: str
    """loreft, direft or nodireft."""
    first_positions: int
    last_positions: int
    first: dict[int, Edit]
    """By decoder block: the edit after it, of the first positions."""
    last: dict[int, Edit]
    """By decoder block: the edit after it, of the last positions; the same edits if tied."""

    @property
    def max_rank(self) -> int:
        """Largest rank of any edit."""
        return max(edit.bias.shape[0] for edit in [*self.first.values(), *self.last.values()])

    @property
    def edited_positions(self) -> tuple[int, int]:
        """How many of the first and of the last positions of a prompt it edits."""
        return self.first_positions, self.last_positions


def load_intervention(source: AdapterSource) -> InterventionAdapter:
    """Read and check a GOSSAMER_REFT adapter. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    refuse_fields(name, config, REFUSED, config)
    variant = config.get("variant")
    if variant not in VARIANTS:
        raise UnsupportedAdapterError(
            f"adapter {name}: variant = {short(variant)} is not supported; known: "
            f"{', '.join(VARIANTS)}"
        )
    with source.open_weights() as stored:
        sides = _sides(name, stored.header.places)
        is_tied = _is_tied(name, config, sides, source.base)
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    first, last = (
        {layer: _edit(weights, parts) for layer, parts in side.items()} for side in sides
    )
    return InterventionAdapter(
        name=name,
        digest=source.digest(weights),
        variant=variant,
        first_positions=whole_number(name, config, "first_positions", least=0),
        last_positions=whole_number(name, config, "last_positions", least=0),
        first=first,
        last=first if is_tied else last,
    )


def method_of_intervention(config: Mapping[str, Any]) -> str:
    """Name the variant of ReFT."""
    return str(config.get("variant", "reft"))


def _sides(name: str, places: Mapping[str, Place]) -> tuple[_Side, _Side]:
    """Where the edits of the first and of the last positions lie, checked among themselves."""
    found: dict[tuple[bool, int], dict[str, Place]] = {}
    for key in sorted(places):
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnsupportedAdapterError(
                f"adapter {name} holds the tensor {key}, which is no part of an edit"
            )
        require_number_format(name, key, places[key].dtype)
        found.setdefault((bool(match[2]), int(match[1])), {})[match[3]] = places[key]
    sides: tuple[_Side, _Side] = ({}, {})
    for (is_last, layer), parts in sorted(found.items()):
        for part in _PARTS:
            if part not in parts:
                raise AdapterFormatError(f"adapter {name}: the edit of block {layer} has no {part}")
        _require_shapes(name, layer, parts)
        sides[is_last][layer] = parts
    if not sides[0]:
        raise AdapterFormatError(f"adapter {name} holds no edits")
    return sides


def _edit(weights: SafetensorsFile, parts: Mapping[str, Place]) -> Edit:
    return Edit(*(weights.tensor(parts[part]) for part in _PARTS))


def _require_shapes(name: str, layer: int, parts: Mapping[str, Place]) -> None:
    rotate, weight, bias = (parts[part].shape for part in _PARTS)
    if len(rotate) != 2 or weight != rotate or bias != rotate[:1]:
        raise AdapterFormatError(
            f"adapter {name}: the edit of block {layer} has shapes {list(rotate)}, {list(weight)} "
            f"and {list(bias)}, not [r, d], [r, d] and [r]"
        )
    if rotate[0] > rotate[1]:
        raise AdapterFormatError(
            f"adapter {name}: the edit of block {layer} has rank {rotate[0]}, more than the "
            f"{rotate[1]} values of a hidden state"
        )


def _is_tied(
    name: str, config: Mapping[str, Any], sides: tuple[_Side, _Side], base: BaseShape | None
) -> bool:
    """Whether the first positions' edits are the last ones' too; and whether all fit the base."""
    first, last = sides
    tied = config.get("tied", not last)
    if not isinstance(tied, bool):
        raise AdapterFormatError(f"adapter {name}: tied = {short(tied)} must be true or false")
    if tied and last:
        raise AdapterFormatError(f"adapter {name} is tied and has edits of the last positions")
    is_tied = tied or (not last and config.get("last_positions") == 0)
    if not is_tied and first.keys() != last.keys():
        raise AdapterFormatError(
            f"adapter {name}: blocks {short(sorted(first))} edit the first positions and blocks "
            f"{short(sorted(last))} the last ones; both must be the same"
        )
    if base is not None:
        _require_fit(name, [*first.items(), *last.items()], base)
    return is_tied


def _require_fit(name: str, edits: list[tuple[int, Mapping[str, Place]]], base: BaseShape) -> None:
    for layer, parts in edits:
        if layer >= base.num_layers:
            raise BaseMismatchError(
                f"adapter {name} edits block {layer}, but the base model has {base.num_layers}; "
                "use the base it was trained on"
            )
        shape = parts["rotate"].shape
        require_shape(name, f"the edit of block {layer}", shape, (shape[0], base.hidden_size))
