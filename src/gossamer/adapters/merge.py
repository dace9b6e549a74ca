"""Fold an adapter into the weights of a loaded model."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.config import read_raw
from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.kinds.sparse_delta import SparseAdapter
from gossamer.adapters.load import LinearAdapter, load_linear
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.errors import UnsupportedAdapterError, UnsupportedModelError

_UNMERGEABLE = {
    "GOSSAMER_REFT": "edits hidden states at positions of the prompt",
    "PROMPT_TUNING": "is virtual tokens in front of the prompt",
    "P_TUNING": "is virtual tokens in front of the prompt",
    "PREFIX_TUNING": "is keys and values in front of the prompt",
}


@torch.no_grad()
def merge_into(
    model: nn.Module,
    folder: Path,
    *,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
) -> int:
    """Fold the adapter in `folder` into `model`; returns the number of layers changed.

    LoRA: W' = W + s B A. DoRA (arXiv:2402.09353, eq. 5): row i of W' is m_i times row i of
    W + s B A divided by its length. IA3 (arXiv:2205.05638): rows (and bias) or columns of W times
    the factors. SHiRA, SMT: W plus the entries. Computed in fp32 and rounded once, to the layer's
    own format. Everything is checked before the first weight changes.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError, BaseMismatchError: as
            `load_adapter`; or the adapter changes no weights.
        UnsupportedModelError: a layer is quantised or not a plain linear layer.
    """
    raw = read_raw(folder, budget.limits)
    _refuse_unmergeable(folder.name, raw["peft_type"].upper())
    shapes = {
        path: (int(module.out_features), int(module.in_features))
        for path, module in model.named_modules()
        if hasattr(module, "out_features") and hasattr(module, "in_features")
    }
    adapter = load_linear(
        folder, base_shapes=shapes, base_fingerprint=base_fingerprint, budget=budget, raw=raw
    )
    layers = {path: _layer(model, adapter.name, path) for path in sorted(_modules(adapter))}
    for path, layer in layers.items():
        _merge_layer(layer, adapter, path)
    return len(layers)


def _refuse_unmergeable(name: str, peft_type: str) -> None:
    if peft_type in _UNMERGEABLE:
        raise UnsupportedAdapterError(
            f"adapter {name} {_UNMERGEABLE[peft_type]} and changes no weights, so it cannot "
            "be merged; serve it beside its base model with `gossamer serve`"
        )


def _modules(adapter: LinearAdapter) -> Collection[str]:
    if isinstance(adapter, Ia3Adapter):
        return adapter.outputs.keys() | adapter.inputs.keys()
    return adapter.deltas if isinstance(adapter, SparseAdapter) else adapter.factors


def _merge_layer(layer: nn.Linear, adapter: LinearAdapter, path: str) -> None:
    # A copy, also where the layer is fp32 already.
    weight = layer.weight.to(torch.float32, copy=True)
    if isinstance(adapter, Ia3Adapter):
        _scale(layer, weight, adapter.outputs.get(path), adapter.inputs.get(path))
    elif isinstance(adapter, SparseAdapter):
        adapter.deltas[path].add_to(weight)
    else:
        _add_product(weight, adapter.factors[path])
        if isinstance(adapter, DoraAdapter):
            length = torch.linalg.norm(weight, dim=1)
            weight *= (adapter.magnitudes[path].to(weight) / length).unsqueeze(1)
    layer.weight.copy_(weight)


def _add_product(weight: Tensor, factors: Factors) -> None:
    weight += factors.scale * (factors.b.to(weight) @ factors.a.to(weight))


def _scale(layer: nn.Linear, weight: Tensor, outputs: Tensor | None, inputs: Tensor | None) -> None:
    if outputs is not None:
        weight *= outputs.to(weight).unsqueeze(1)
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.float() * outputs.to(weight))
    if inputs is not None:
        weight *= inputs.to(weight)


def _layer(model: nn.Module, name: str, module: str) -> nn.Linear:
    layer: Any = model.get_submodule(module)
    if type(layer) is not nn.Linear:
        raise UnsupportedModelError(
            f"{module} is a {type(layer).__name__} and not a plain linear layer, so adapter {name} "
            "cannot be merged into it; give the unquantised base model"
        )
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
