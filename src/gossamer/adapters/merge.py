"""Fold an adapter into the weights of a loaded model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import read_config
from gossamer.adapters.low_rank import (
    PREFIX,
    Factors,
    pair_factors,
    require_fit,
    require_same_base,
)
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    UnsupportedAdapterError,
    UnsupportedModelError,
)

_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


@torch.no_grad()
def merge_into(model: nn.Module, folder: Path, *, base_fingerprint: str | None = None) -> int:
    """Fold the LoRA or DoRA adapter in `folder` into `model`; returns the number of layers changed.

    LoRA: W' = W + s B A. DoRA (arXiv:2402.09353, eq. 5): row i of W' is m_i times row i of
    W + s B A divided by its length. Computed in fp32 and rounded once, to the layer's own format.
    Everything is checked before the first weight changes.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError, BaseMismatchError: as
            `load_low_rank`.
        UnsupportedModelError: a layer is quantised or not a plain linear layer.
    """
    name = folder.name
    spec = read_config(folder)
    require_low_rank(spec, name, allow_dora=True)
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    require_finite(name, weights.tensors.items())
    magnitudes = _magnitudes(weights.tensors) if spec.use_dora else {}
    plain = {
        key: tensor
        for key, tensor in weights.tensors.items()
        if not (spec.use_dora and key.endswith(_MAGNITUDES))
    }
    factors = pair_factors(name, spec, plain)
    layers = {module: _layer(model, name, module, pair) for module, pair in factors.items()}
    if spec.use_dora:
        _require_magnitudes(name, layers, magnitudes)
    for module, layer in layers.items():
        _merge_layer(layer, factors[module], magnitudes.get(module))
    return len(layers)


def _merge_layer(layer: nn.Linear, factors: Factors, magnitude: torch.Tensor | None) -> None:
    device = layer.weight.device
    a = factors.a.to(device, torch.float32)
    b = factors.b.to(device, torch.float32)
    merged = layer.weight.float() + factors.scale * (b @ a)
    if magnitude is not None:
        length = torch.linalg.norm(merged, dim=1)
        merged *= (magnitude.to(device, torch.float32) / length).unsqueeze(1)
    layer.weight.copy_(merged)


def _magnitudes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        for suffix in _MAGNITUDES:
            if key.startswith(PREFIX) and key.endswith(suffix):
                found[key[len(PREFIX) : -len(suffix)]] = tensor
    return found


def _require_magnitudes(
    name: str, layers: Mapping[str, nn.Linear], magnitudes: Mapping[str, torch.Tensor]
) -> None:
    for module in sorted({*layers, *magnitudes}):
        if module not in magnitudes or module not in layers:
            lacks = "magnitude vector" if module in layers else "lora_A and lora_B"
            raise AdapterFormatError(f"adapter {name}: DoRA module {module} has no {lacks}")
        rows = layers[module].weight.shape[0]
        if tuple(magnitudes[module].shape) != (rows,):
            raise BaseMismatchError(
                f"adapter {name}: the magnitude vector of {module} has shape "
                f"{list(magnitudes[module].shape)}, but the layer has {rows} outputs"
            )


def _layer(model: nn.Module, name: str, module: str, factors: Factors) -> nn.Linear:
    try:
        layer: Any = model.get_submodule(module)
    except AttributeError:
        layer = None
    if layer is None:
        require_fit(name, module, factors, None)
    if type(layer) is not nn.Linear:
        raise UnsupportedModelError(
            f"{module} is a {type(layer).__name__} and not a plain linear layer, so adapter {name} "
            "cannot be merged into it; give the unquantised base model"
        )
    rows, columns = layer.weight.shape
    require_fit(name, module, factors, (rows, columns))
    if any(
        other is layer.weight and path != f"{module}.weight"
        for path, other in model.named_parameters(remove_duplicate=False)
        if path.endswith(("embed_tokens.weight", "lm_head.weight"))
    ):
        raise UnsupportedAdapterError(
            f"adapter {name} adapts {module}, whose weight is also the embedding; merging would "
            "change both"
        )
    return layer
