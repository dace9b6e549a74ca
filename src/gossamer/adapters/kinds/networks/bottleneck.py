"""Bottleneck adapters: small networks behind linear layers (arXiv 1902.00751, arXiv 2005.00247)."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.base_shape import require_linear, require_shape
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, short
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.layout import module_of_key
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
"""What the nonlinearity may be."""
_PARTS = tuple(
    f".bottleneck_{side}.{part}" for side in ("down", "up") for part in ("weight", "bias")
)


@dataclass(frozen=True)
class Network:
    """What stands behind one layer: z + scale * (U f(D z + a) + b)."""

    down: Tensor
    """D [width, h_out]"""
    down_bias: Tensor
    """a [width]"""
    up: Tensor
    """U [h_out, width]"""
    up_bias: Tensor
    """b [h_out]"""


@dataclass(frozen=True)
class BottleneckAdapter(Adapter):
    """A checked bottleneck adapter in memory."""

    kind: ClassVar[str] = "bottleneck"
    networks: dict[str, Network]
    """By path of the linear layer that each stands behind."""
    activation: str
    scale: float

    @property
    def max_rank(self) -> int:
        """Width of the widest network."""
        return max(len(network.down_bias) for network in self.networks.values())

    @property
    def modules(self) -> Collection[str]:
        """Paths of the linear layers that networks stand behind."""
        return self.networks


def load_bottleneck(source: AdapterSource) -> BottleneckAdapter:
    """Read and check a GOSSAMER_BOTTLENECK adapter. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    refuse_fields(name, config, REFUSED, {*COMMON, "activation", "scale", "width"})
    activation = config.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UnsupportedAdapterError(
            f"adapter {name}: activation = {short(activation)} is not supported; known: "
            f"{', '.join(ACTIVATIONS)}"
        )
    scale = config.get("scale", 1.0)
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise AdapterFormatError(f"adapter {name}: scale = {short(scale)} must be a finite number")
    with source.open_weights() as stored:
        found = _networks(source, stored.header.places)
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    networks = {
        path: Network(*(weights.tensor(parts[part]) for part in _PARTS))
        for path, parts in found.items()
    }
    return BottleneckAdapter(name, source.digest(weights), networks, activation, float(scale))


def _networks(source: AdapterSource, places: Mapping[str, Place]) -> dict[str, dict[str, Place]]:
    """Where the parts of each network lie, by path and ending, checked against each other."""
    name = source.name
    found: dict[str, dict[str, Place]] = {}
    for key in sorted(places):
        path, part = module_of_key(name, key, _PARTS, "a part of a bottleneck")
        require_number_format(name, key, places[key].dtype)
        found.setdefault(path, {})[part] = places[key]
    for path, parts in found.items():
        for part in _PARTS:
            if part not in parts:
                raise AdapterFormatError(f"adapter {name}: the bottleneck of {path} has no {part}")
        _require_shapes(name, path, parts)
        if source.linears is not None:
            h_out, _ = require_linear(name, path, source.linears)
            own = parts[_PARTS[0]].shape
            require_shape(name, f"the bottleneck of {path}", own, (own[0], h_out))
    return found


def _require_shapes(name: str, path: str, parts: Mapping[str, Any]) -> None:
    down, down_bias, up, up_bias = (parts[part].shape for part in _PARTS)
    if len(down) != 2 or not down[0] or (down_bias, up, up_bias) != (
        down[:1], down[::-1], down[1:],
    ):  # fmt: skip
        raise AdapterFormatError(
            f"adapter {name}: the bottleneck of {path} has shapes {list(down)}, {list(down_bias)}, "
            f"{list(up)} and {list(up_bias)}, not [w, d], [w], [d, w] and [d]"
        )
