"""IA3 adapters (arXiv:2205.05638): factors on the outputs or the inputs of linear layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from gossamer.adapters.base_shape import require_linear, require_same_base, require_shape
from gossamer.adapters.config import read_raw
from gossamer.adapters.digest import digest_of
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.layout import module_of_key, require_number_format
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.weights import open_weights, require_finite
from gossamer.errors import AdapterFormatError

_SUFFIX = ".ia3_l"


@dataclass(frozen=True)
class Ia3Adapter:
    """A checked adapter in memory. A module has a factor on its output or on its input."""

    kind: ClassVar[str] = "gain"
    max_rank: ClassVar[None] = None
    name: str
    digest: str
    outputs: dict[str, torch.Tensor]
    """[h_out] by module path: y = g * (W x + b)."""
    inputs: dict[str, torch.Tensor]
    """[h_in] by module path: y = W (g * x) + b."""


def load_ia3(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
    raw: Mapping[str, Any] | None = None,
) -> Ia3Adapter:
    """Read and check the IA3 adapter in `folder`; arguments and errors as `load_low_rank`.

    PEFT stores a factor on the output as [h_out, 1] and one on the input as [1, h_in].
    """
    raw = read_raw(folder, budget.limits) if raw is None else raw
    name = folder.name
    refuse_fields(name, raw, REFUSED, {*COMMON, "feedforward_modules", "init_ia3_weights"})
    with open_weights(folder, budget.limits) as stored:
        require_same_base(name, stored.base_fingerprint, base_fingerprint)
        places = {
            _judged(name, key, stored.header.places[key], base_shapes): stored.header.places[key]
            for key in sorted(stored.header.places)
        }
        budget.require_room_for(name, stored.header)
        weights = stored.read()
    require_finite(name, weights)
    outputs: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    for module, place in places.items():
        found = outputs if place.shape[1] == 1 else inputs
        found[module] = weights.file.tensor(place).reshape(-1)
    return Ia3Adapter(name, digest_of(raw, weights.file), outputs, inputs)


def _judged(
    name: str, key: str, place: Place, base_shapes: Mapping[str, tuple[int, int]] | None
) -> str:
    """The module that a factor belongs to, which it fits."""
    module, _ = module_of_key(name, key, (_SUFFIX,), "a factor of IA3")
    require_number_format(name, key, place.dtype)
    if len(place.shape) != 2 or 1 not in place.shape:
        raise AdapterFormatError(
            f"adapter {name}: {key} has shape {list(place.shape)}, not [h_out, 1] or [1, h_in]"
        )
    if base_shapes is not None:
        h_out, h_in = require_linear(name, module, base_shapes)
        wanted = h_out if place.shape[1] == 1 else h_in
        require_shape(name, f"the factor of {module}", (place.numel,), (wanted,))
    return module
