"""Two streams: reversible layers with networks beside them (MEFT, arXiv 2306.00477)."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, short, whole_number
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.networks.bottleneck import ACTIVATIONS
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Types of models whose decoder blocks norm before attention and before the MLP, and nowhere
else: those the equations are written for."""
BLOCK_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What such a block consists of."""
VARIANTS = ("meft1", "meft2", "meft3")
"""Which parts of a block are F and G."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "variant": VARIANTS,
    "residual": ("shared", "whole"),
    "activation": ACTIVATIONS,
    "stream_dtype": ("float64", "float32"),
}
_FIELDS = {
    *COMMON, *_CHOICES, "anchor_every", "beta", "dropout", "lam", "reversible_layers", "width"
}  # fmt: skip
_KEY = re.compile(
    r"base_model\.model\.(?:.+\.)?([0-9]{1,9})\.meft_((?:f|g)_(?:down|up)\.(?:weight|bias))"
)
_PARTS = tuple(
    f"{half}_{side}.{part}"
    for half in ("f", "g")
    for side in ("down", "up")
    for part in ("weight", "bias")
)


@dataclass(frozen=True)
class StreamWeights:
    """The network A(x) = U f(D x + a) + b of one half of a layer."""

    down: Tensor
    """D [w, d]"""
    down_bias: Tensor
    """a [w]"""
    up: Tensor
    """U [d, w]"""
    up_bias: Tensor
    """b [d]"""


@dataclass(frozen=True)
class TwoStreamAdapter(Adapter):
    """A checked adapter in memory: y1 = lam x1 + F(x2), y2 = beta x2 + G(y1) in each of its
    layers, which are the first ones of the model."""

    kind: ClassVar[str] = "two-stream"
    variant: str
    """One of `VARIANTS`."""
    lam: float
    beta: float
    is_shared: bool
    """Whether the half that holds a residual gives as much of it away as the other stream brings:
    1 - lam (or 1 - beta) of it is left."""
    activation: str
    is_double: bool
    """Whether the streams are float64; else float32."""
    layers: tuple[tuple[StreamWeights, StreamWeights], ...]
    """By number of the layer: the networks of F and of G."""


def load_two_streams(source: AdapterSource) -> TwoStreamAdapter:
    """Read and check a GOSSAMER_MEFT adapter. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    refuse_fields(name, config, REFUSED, _FIELDS)
    for field, known in _CHOICES.items():
        if config.get(field) not in known:
            raise UnsupportedAdapterError(
                f"adapter {name}: {field} = {short(config.get(field))} is not supported; known: "
                f"{', '.join(known)}"
            )
    lam, beta = (_factor(name, config, field) for field in ("lam", "beta"))
    with source.open_weights() as stored:
        layers = _layers(source, stored.header.places)
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    halves = [
        [StreamWeights(*(weights.tensor(parts[part]) for part in half)) for half in _HALVES]
        for parts in layers
    ]
    return TwoStreamAdapter(
        name=name,
        digest=source.digest(weights),
        variant=str(config["variant"]),
        lam=lam,
        beta=beta,
        is_shared=config["residual"] == "shared",
        activation=str(config["activation"]),
        is_double=config["stream_dtype"] == "float64",
        layers=tuple((f, g) for f, g in halves),
    )


_HALVES = (_PARTS[:4], _PARTS[4:])


def _factor(name: str, config: Mapping[str, Any], field: str) -> float:
    value: Any = config.get(field)
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise AdapterFormatError(
            f"adapter {name}: {field} = {short(value)} must be a finite number above 0"
        )
    return float(value)


def _layers(source: AdapterSource, places: Mapping[str, Place]) -> list[dict[str, Place]]:
    """Where the parts of each layer's networks lie, checked against each other and the base."""
    name, base = source.name, source.base
    count = whole_number(name, source.config, "reversible_layers", least=1)
    found: dict[int, dict[str, Place]] = {}
    for key in sorted(places):
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnsupportedAdapterError(
                f"adapter {name} holds the tensor {key}, which is no part of a network beside a "
                "reversible layer"
            )
        require_number_format(name, key, places[key].dtype)
        found.setdefault(int(match[1]), {})[match[2]] = places[key]
    # The length first: the number of a hostile file may be in the billions.
    if len(found) != count or sorted(found) != list(range(count)):
        raise AdapterFormatError(
            f"adapter {name} has networks beside the layers {short(sorted(found))}, and its "
            f"reversible_layers = {count} means the first {count}"
        )
    if base is not None and count > base.num_layers:
        raise BaseMismatchError(
            f"adapter {name} makes {count} layers reversible, but the base model has "
            f"{base.num_layers}; use the base it was trained on"
        )
    width = base.hidden_size if base is not None else None
    for layer, parts in sorted(found.items()):
        for part in _PARTS:
            if part not in parts:
                raise AdapterFormatError(f"adapter {name}: layer {layer} has no meft_{part}")
        for half in _HALVES:
            _require_shapes(name, layer, [parts[part].shape for part in half], width)
    return [found[layer] for layer in range(count)]


def _require_shapes(
    name: str, layer: int, shapes: list[tuple[int, ...]], width: int | None
) -> None:
    down, down_bias, up, up_bias = shapes
    if len(down) != 2 or 0 in down or (down_bias, up, up_bias) != (
        down[:1], down[::-1], down[1:],
    ):  # fmt: skip
        raise AdapterFormatError(
            f"adapter {name}: a network of layer {layer} has shapes {list(down)}, "
            f"{list(down_bias)}, {list(up)} and {list(up_bias)}, not [w, d], [w], [d, w] and [d]"
        )
    if width is not None and down[1] != width:
        raise BaseMismatchError(
            f"adapter {name}: the networks of layer {layer} read {down[1]} channels, but the "
            f"states of the base model have {width}; use the base it was trained on"
        )
