"""Interventions: edits of hidden states at positions of the prompt (ReFT, arXiv:2404.03592)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.base_fit import require_same_base, require_shape
from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.config import read_raw
from gossamer.adapters.fields import REFUSED, refuse_fields, whole_number
from gossamer.adapters.identity import digest_of
from gossamer.adapters.tensor_names import require_number_format
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

VARIANTS = ("loreft", "direft", "nodireft")

_KEY = re.compile(
    r"base_model\.model\.(?:.+\.)?layers\.(\d+)\.reft_(last_)?(rotate|weight|bias)"
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """h' = h + R^T (W h + b - R h) for LoReFT, h + R^T (W h + b) for the others."""

    rotate: Tensor
    """R [rank, hidden]"""
    weight: Tensor
    """W [rank, hidden]"""
    bias: Tensor
    """b [rank]"""


@dataclass(frozen=True)
class InterventionAdapter:
    """A checked adapter in memory."""

    kind: ClassVar[str] = "intervention"
    name: str
    digest: str
    variant: str
    """loreft, direft or nodireft."""
    first_positions: int
    last_positions: int
    first: dict[int, Edit]
    """By decoder block: the edit after it, of the first positions."""
    last: dict[int, Edit]
    """The same of the last positions; the same edits if tied."""

    @property
    def max_rank(self) -> int:
        """Largest rank of any edit."""
        return max(edit.bias.shape[0] for edit in [*self.first.values(), *self.last.values()])


def load_intervention(
    folder: Path, *, base: BaseShape | None = None, base_fingerprint: str | None = None
) -> InterventionAdapter:
    """Read and check the GOSSAMER_REFT adapter in `folder`.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError, BaseMismatchError: as
            `load_low_rank`.
    """
    raw = read_raw(folder)
    name = folder.name
    refuse_fields(name, raw, REFUSED, raw)
    variant = raw.get("variant")
    if variant not in VARIANTS:
        raise UnsupportedAdapterError(
            f"adapter {name}: variant = {variant!r} is not supported; known: {', '.join(VARIANTS)}"
        )
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    require_finite(name, weights)
    first, last = _edits(name, weights.tensors)
    if _is_tied(name, raw, last):
        last = first
    elif first.keys() != last.keys():
        raise AdapterFormatError(
            f"adapter {name}: blocks {sorted(first)} edit the first positions and blocks "
            f"{sorted(last)} the last ones; both must be the same"
        )
    if base is not None:
        _require_fit(name, [*first.items(), *last.items()], base)
    return InterventionAdapter(
        name=name,
        digest=digest_of(raw, weights),
        variant=variant,
        first_positions=whole_number(name, raw, "first_positions", least=0),
        last_positions=whole_number(name, raw, "last_positions", least=0),
        first=first,
        last=last,
    )


def _edits(name: str, tensors: Mapping[str, Tensor]) -> tuple[dict[int, Edit], dict[int, Edit]]:
    found: dict[tuple[bool, int], dict[str, Tensor]] = {}
    for key in sorted(tensors):
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnsupportedAdapterError(
                f"adapter {name} holds the tensor {key}, which is no part of an edit"
            )
        require_number_format(name, key, tensors[key].dtype)
        found.setdefault((bool(match[2]), int(match[1])), {})[match[3]] = tensors[key]
    sides: tuple[dict[int, Edit], dict[int, Edit]] = ({}, {})
    for (is_last, layer), parts in sorted(found.items()):
        for part in ("rotate", "weight", "bias"):
            if part not in parts:
                raise AdapterFormatError(f"adapter {name}: the edit of block {layer} has no {part}")
        edit = Edit(parts["rotate"], parts["weight"], parts["bias"])
        _require_shapes(name, layer, edit)
        sides[is_last][layer] = edit
    if not sides[0]:
        raise AdapterFormatError(f"adapter {name} holds no edits")
    return sides


def _require_shapes(name: str, layer: int, edit: Edit) -> None:
    shape = tuple(edit.rotate.shape)
    if len(shape) != 2 or edit.weight.shape != shape or tuple(edit.bias.shape) != shape[:1]:
        raise AdapterFormatError(
            f"adapter {name}: the edit of block {layer} has shapes {list(shape)}, "
            f"{list(edit.weight.shape)} and {list(edit.bias.shape)}, not [r, d], [r, d] and [r]"
        )


def _is_tied(name: str, raw: Mapping[str, Any], last: Mapping[int, Edit]) -> bool:
    tied = raw.get("tied", not last)
    if not isinstance(tied, bool):
        raise AdapterFormatError(f"adapter {name}: tied = {tied!r} must be true or false")
    if tied and last:
        raise AdapterFormatError(f"adapter {name} is tied and has edits of the last positions")
    return tied or (not last and raw.get("last_positions") == 0)


def _require_fit(name: str, edits: list[tuple[int, Edit]], base: BaseShape) -> None:
    for layer, edit in edits:
        if layer >= base.num_layers:
            raise BaseMismatchError(
                f"adapter {name} edits block {layer}, but the base model has {base.num_layers}; "
                "use the base it was trained on"
            )
        rank = edit.bias.shape[0]
        wanted = (rank, base.hidden_size)
        require_shape(name, f"the edit of block {layer}", tuple(edit.rotate.shape), wanted)
