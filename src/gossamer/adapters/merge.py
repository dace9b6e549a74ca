"""Fold an adapter into the weights of a loaded model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.table import AdapterKind, kind_of
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.source import AdapterSource
from gossamer.errors import UnsupportedAdapterError, UnsupportedModelError


@torch.no_grad()
def merge_into(
    model: nn.Module,
    folder: Path,
    *,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
    config: Mapping[str, Any] | None = None,
) -> int:
    """Fold the adapter in `folder` into `model`; returns the number of layers changed.

    `config` is what `read_config` returned for the folder, if it was read already.

    LoRA: W' = W + s B A. DoRA (arXiv:2402.09353, eq. 5): row i of W' is m_i times row i of
    W + s B A divided by its length. IA3 (arXiv:2205.05638): rows (and bias) or columns of W times
    the factors. SHiRA, SMT: W plus the entries. Biases, norms and rows of tokens: those that were
    trained. Computed in fp32 and rounded once, to the layer's
    own format. Everything is checked before the first weight changes.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError, BaseMismatchError: as
            `load_adapter`; or the adapter changes no weights.
        UnsupportedModelError: a layer is quantised or not a plain linear layer.
    """
    source = AdapterSource.read(
        folder,
        linears=_shapes(model),
        base_fingerprint=base_fingerprint,
        budget=budget,
        config=config,
    )
    kind = kind_of(source)
    _require_mergeable(source, kind)
    adapter = kind.load(source)
    paths = kind.weights_of(adapter)
    layers = {path: _layer(model, adapter.name, path) for path in sorted(paths)}
    if kind.merge_parts is not None:
        # First, since it may refuse; it has judged all before it changes anything.
        kind.merge_parts(adapter, model)
    for path, layer in layers.items():
        _merge_layer(layer, kind, adapter, path)
    return len(set(adapter.modules))


def _shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        path: (int(module.out_features), int(module.in_features))
        for path, module in model.named_modules()
        if hasattr(module, "out_features") and hasattr(module, "in_features")
    }


def _require_mergeable(source: AdapterSource, kind: AdapterKind) -> None:
    if kind.merge is None and kind.merge_parts is None:
        raise UnsupportedAdapterError(
            f"adapter {source.name} {kind.unmergeable[source.peft_type]} and changes no weights, "
            "so it cannot be merged; serve it beside its base model with `gossamer serve`"
        )


def _merge_layer(layer: nn.Linear, kind: AdapterKind, adapter: Adapter, path: str) -> None:
    assert kind.merge is not None
    # A copy, also where the layer is fp32 already.
    weight = layer.weight.to(torch.float32, copy=True)
    kind.merge(adapter, path, layer, weight)
    layer.weight.copy_(weight)


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
