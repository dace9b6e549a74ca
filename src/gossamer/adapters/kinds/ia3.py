"""IA3 adapters (arXiv:2205.05638): factors on the outputs or the inputs of linear layers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gossamer.adapters.base_shape import require_linear, require_shape
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.layout import module_of_key
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError

_SUFFIX = ".ia3_l"


@dataclass(frozen=True)
class Ia3Adapter(Adapter):
    """A checked IA3 adapter in memory. A module has a factor on its output or on its input."""

    kind: ClassVar[str] = "gain"
    outputs: dict[str, torch.Tensor]
    """[h_out] by module path: y = g * (W x + b)."""
    inputs: dict[str, torch.Tensor]
    """[h_in] by module path: y = W (g * x) + b."""

    @property
    def modules(self) -> Collection[str]:
        """Paths of the linear layers that it changes."""
        return self.outputs.keys() | self.inputs.keys()


def load_ia3(source: AdapterSource) -> Ia3Adapter:
    """Read and check an IA3 adapter. Raises as `load_low_rank`.

    PEFT stores a factor on the output as [h_out, 1] and one on the input as [1, h_in].
    """
    name = source.name
    refuse_fields(
        name, source.config, REFUSED, {*COMMON, "feedforward_modules", "init_ia3_weights"}
    )
    with source.open_weights() as stored:
        places = {
            _judged(name, key, place, source.linears): place
            for key, place in sorted(stored.header.places.items())
        }
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    outputs: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    for module, place in places.items():
        found = outputs if place.shape[1] == 1 else inputs
        found[module] = weights.tensor(place).reshape(-1)
    return Ia3Adapter(name, source.digest(weights), outputs, inputs)


def merge_ia3(adapter: Ia3Adapter, path: str, layer: nn.Linear, weight: torch.Tensor) -> None:
    """Multiply rows (and the layer's bias) or columns of W by the factors of the module `path`."""
    outputs, inputs = adapter.outputs.get(path), adapter.inputs.get(path)
    if outputs is not None:
        weight *= outputs.to(weight).unsqueeze(1)
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.float() * outputs.to(weight))
    if inputs is not None:
        weight *= inputs.to(weight)


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
