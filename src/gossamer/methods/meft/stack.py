"""The reversible layers of a model, which are computed together when the last is reached."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.basemodel.versions import cache_in, uncached_arguments
from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.meft.coupling import Coupling, run_plainly
from gossamer.methods.meft.halves import LayerParts, couple
from gossamer.methods.meft.reversible import run_reversibly

Call = tuple[Any, Mapping[str, Any]]
"""A `MeftLayer`, and what the model gave it beside the hidden states."""


class ReversibleStack:
    """Gathers what the model gives each layer, and runs all when the last of them is called.

    Layers may differ in their masks, so none can be run for another. The layers before the last
    return the hidden states as they came; the last one returns the mean of both streams.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def active(self, layer: Any) -> str | None:
        """Return the adapter by which `layer` is to be reversible; None: it is to be the base's.

        Raises `UnsupportedAdapterError` for more than one.
        """
        names = [name for name in layer.active_adapters if name in layer.meft_config]
        if layer.disable_adapters or not names:
            return None
        if len(names) > 1:
            raise UnsupportedAdapterError(
                f"MEFT adapters cannot act together, as each has streams of its own: {names}; "
                "call set_adapter with one of them"
            )
        return str(names[0])

    def reach(self, layer: Any, name: str, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Note the call of a layer with `hidden` [batch, tokens, d]; see the class."""
        if layer.index == 0:
            self._calls = []
        if layer.index != len(self._calls):
            raise UnsupportedAdapterError(
                f"MEFT: decoder layer {layer.index} was called after {len(self._calls)} reversible "
                "ones; they run from the first to the last, in one forward pass of the model"
            )
        self._calls.append((layer, arguments))
        if layer.index + 1 < layer.meft_config[name].reversible_layers:
            return hidden
        calls, self._calls = self._calls, []
        return run_layers(calls, name, hidden)


@torch.compiler.disable
def run_layers(calls: list[Call], name: str, hidden: Tensor) -> Tensor:
    """Run the layers of `calls` by their adapter `name` on `hidden` [batch, tokens, d]; return the
    mean of both streams.

    Where gradients are wanted nothing but the streams is kept. While a cache of keys and values is
    in use, layers are run as any: they cannot be computed twice. In training a cache that is still
    empty is left empty, as with gradient checkpointing of transformers.
    """
    config = calls[0][0].meft_config[name]
    dropped = _drops_cache(calls)
    layers = couplings(calls, name, hidden.dtype, without_cache=dropped)
    stream = hidden.to(torch.promote_types(config.dtype, hidden.dtype))
    if torch.is_grad_enabled() and (dropped or _cache(calls) is None):
        weights = [[p for p in c.parameters() if p.requires_grad] for c, _ in calls]
        x1, x2 = run_reversibly(layers, weights, stream, stream, anchor_every=config.spacing)
    else:
        x1, x2 = run_plainly(layers, stream, stream)
    return ((x1 + x2) / 2).to(hidden.dtype)


def couplings(
    calls: list[Call], name: str, dtype: torch.dtype, *, without_cache: bool = False
) -> list[Coupling]:
    """Make the couplings of the layers of `calls`, which compute in `dtype`."""
    made = []
    for layer, arguments in calls:
        if without_cache:
            arguments = uncached_arguments(arguments)
        block: nn.Module = layer.get_base_layer()
        parts = LayerParts(
            block, layer.adapter("f", name), layer.adapter("g", name), arguments, dtype
        )
        made.append(couple(parts, layer.meft_config[name]))
    return made


def _cache(calls: list[Call]) -> Any:
    return cache_in(calls[0][1])


def _drops_cache(calls: list[Call]) -> bool:
    cache = _cache(calls)
    training = calls[0][0].training and torch.is_grad_enabled()
    return cache is not None and training and cache.get_seq_length() == 0
