"""Side networks: the late layers read what a network makes of early states (SHERL, arXiv
2407.07523)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields, short, whole_number
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

FORMS: Mapping[str, tuple[str, ...]] = {
    "gated": ("fc1", "fc2", "fc3"),
    "layer_norm": ("fc1", "layernorm"),
    "linear": ("fc1",),
}
"""The layers of the adapter of each state that is read, by what a config calls its form."""
SKIPS = ("gated", "whole")
"""How the last early state goes on beside the network."""

_FIELDS = {*COMMON, "form", "late_layers", "layers", "reduction", "skip", "taps"}
_KEY = re.compile(r"base_model\.model\.(?:.+\.)?([0-9]{1,9})\.sherl_side\.([a-z0-9_]+)")


@dataclass(frozen=True)
class SideAdapter(Adapter):
    """A checked side network in memory: o = U relu(a) + c + g f_K of the states f_0 ... f_K, which
    takes the place of f_K; a is made of the features p_k, h wide, of all states."""

    kind: ClassVar[str] = "side-network"
    layers: tuple[int, ...]
    """Numbers of the decoder blocks whose outputs are f_1 ... f_K, ascending; f_0 is what goes into
    the first block."""
    form: str
    """Which of `FORMS` makes the features."""
    stacks: dict[str, Tensor]
    """By name, such as fc1_weight, what the adapters of all states have, [K + 1, ...]."""
    attend: tuple[Tensor, Tensor]
    """v [h] and b [1] of the weights of features."""
    out: tuple[Tensor, Tensor]
    """U [d, h] and c [d]."""
    gamma: Tensor | None
    """[1]: g = tanh(gamma / 0.1); None: g = 1."""


def load_side_network(source: AdapterSource) -> SideAdapter:
    """Read and check a GOSSAMER_SHERL adapter. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    refuse_fields(name, config, REFUSED, _FIELDS)
    form, skip = _choice(name, config, "form", FORMS), _choice(name, config, "skip", SKIPS)
    layers = _layers(name, config)
    with source.open_weights() as stored:
        places = _places(source, stored.header.places, layers[-1])
        _require_shapes(name, places, form=form, taps=len(layers) + 1, is_gated=skip == "gated")
        _require_fit(source, places, layers[-1])
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    tensors = {part: weights.tensor(place) for part, place in places.items()}
    return SideAdapter(
        name=name,
        digest=source.digest(weights),
        layers=layers,
        form=form,
        stacks={part: tensors[part] for part in _stacks(form)},
        attend=(tensors["attn_weight"][0], tensors["attn_bias"]),
        out=(tensors["out_weight"], tensors["out_bias"]),
        gamma=tensors.get("gamma"),
    )


def _choice(name: str, config: Mapping[str, Any], field: str, known: Any) -> str:
    value = config.get(field)
    if not isinstance(value, str) or value not in known:
        raise UnsupportedAdapterError(
            f"adapter {name}: {field} = {short(value)} is not supported; known: {', '.join(known)}"
        )
    return value


def _layers(name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    layers = config.get("layers")
    if (
        not isinstance(layers, list)
        or not layers
        or any(type(layer) is not int or layer < 0 for layer in layers)
        or layers != sorted(set(layers))
    ):
        raise AdapterFormatError(
            f"adapter {name}: layers = {short(layers)} must be the ascending numbers of the "
            "decoder blocks whose output is read, counted from 0"
        )
    return tuple(layers)


def _places(source: AdapterSource, places: Mapping[str, Place], last: int) -> dict[str, Place]:
    """Where the parts of the network lie, by name."""
    name = source.name
    found: dict[str, Place] = {}
    for key in sorted(places):
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnsupportedAdapterError(
                f"adapter {name} holds the tensor {key}, which is no part of a side network"
            )
        require_number_format(name, key, places[key].dtype)
        if int(match[1]) != last or match[2] in found:
            raise AdapterFormatError(
                f"adapter {name} holds the tensor {key}; its one side network stands behind block "
                f"{last}, the last of its layers"
            )
        found[match[2]] = places[key]
    return found


def _stacks(form: str) -> list[str]:
    return [f"{layer}_{part}" for layer in FORMS[form] for part in ("weight", "bias")]


def _require_shapes(
    name: str, places: Mapping[str, Place], *, form: str, taps: int, is_gated: bool
) -> None:
    """Raise `AdapterFormatError` unless there is all of a network, in shapes that fit together."""
    stacks = _stacks(form)
    wanted = [*stacks, "attn_weight", "attn_bias", "out_weight", "out_bias"]
    wanted += ["gamma"] if is_gated else []
    for part in wanted:
        if part not in places:
            raise AdapterFormatError(f"adapter {name}: its side network has no {part}")
    for part in places:
        if part not in wanted:
            raise AdapterFormatError(
                f"adapter {name}: its side network has {part}, which one of form {form} "
                f"{'with' if is_gated else 'without'} a gate has not"
            )
    first = places["fc1_weight"].shape
    if len(first) != 3 or first[0] != taps or 0 in first:
        raise AdapterFormatError(
            f"adapter {name}: fc1_weight of its side network has shape {list(first)}, not "
            f"[{taps}, h, d]: it reads {taps} states"
        )
    inner, width = first[1:]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(stacks, (taps, inner))
    shapes |= {f"{layer}_weight": (taps, inner, inner) for layer in ("fc2", "fc3")}
    shapes |= {"fc1_weight": first, "attn_weight": (1, inner), "attn_bias": (1,), "gamma": (1,)}
    shapes |= {"out_weight": (width, inner), "out_bias": (width,)}
    for part, place in places.items():
        if place.shape != shapes[part]:
            raise AdapterFormatError(
                f"adapter {name}: {part} of its side network has shape {list(place.shape)}, not "
                f"{list(shapes[part])}"
            )


def _require_fit(source: AdapterSource, places: Mapping[str, Place], last: int) -> None:
    """Raise `BaseMismatchError` unless the base, if known, is as wide and as deep as that of the
    adapter."""
    name, base = source.name, source.base
    late = whole_number(name, source.config, "late_layers", least=0)
    if base is None:
        return
    width = places["fc1_weight"].shape[2]
    if width != base.hidden_size or last + 1 + late != base.num_layers:
        raise BaseMismatchError(
            f"adapter {name} is for a model of {last + 1 + late} blocks that are {width} wide, but "
            f"the base model has {base.num_layers} of {base.hidden_size}; use the base it was "
            "trained on"
        )
