"""What an adapter folder changes of each linear layer, as low-rank factors or as a whole matrix."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.adapters.kinds.mixed import MixedAdapter
from gossamer.adapters.kinds.sparse_delta import SparseAdapter
from gossamer.adapters.kinds.table import KINDS, class_of
from gossamer.adapters.kinds.tokens import TokenAdapter
from gossamer.adapters.kinds.vector import VectorAdapter
from gossamer.adapters.source import AdapterSource
from gossamer.basemodel.load import load_config
from gossamer.conversion.low_rank import Change
from gossamer.errors import UnsupportedAdapterError

MERGED: dict[type[Adapter], str] = {
    DoraAdapter: "rescales each row of the weights to a learnt length",
    Ia3Adapter: "rescales whole rows and columns of the weights",
    MixedAdapter: "changes biases, whole modules or tokens beside its factors",
    VectorAdapter: "changes biases or norms",
    TokenAdapter: "changes the embeddings of some tokens",
}
"""What can be folded into a model, though not written as LoRA, and why."""
OWN = "GOSSAMER_"
"""How the types of our tuners begin."""


def changes(source: AdapterSource, base_folder: Callable[[], Path]) -> Iterator[tuple[str, Change]]:
    """Go through the layers that the adapter changes: path in the base model, and the change.

    `base_folder` is called where the base model's configuration is needed; its weights never are.

    Raises:
        UnsupportedAdapterError: what the adapter does is no change of weights that LoRA could hold.
        AdapterFormatError, BaseMismatchError: its files are damaged or of another base model.
        MissingExtraError: a tuner of ours without PEFT installed.
    """
    kind = class_of(source.config)
    if kind is LowRankAdapter:
        return iter(_loaded(source).factors.items())
    if kind is SparseAdapter:
        return _sparse(source, base_folder())
    if kind is not None:
        raise _no_lora(source, kind)
    if not source.peft_type.startswith(OWN):
        raise UnsupportedAdapterError(
            f"adapter {source.name} is of type {source.config['peft_type']}, which is PEFT's own; "
            "peft.save_as_lora converts those that it can"
        )
    from gossamer.conversion.tuners import tuner_changes

    return tuner_changes(source, _structure(base_folder()))


def _structure(folder: Path) -> Any:
    """Build the causal language model in `folder` without its weights, on the device "meta"."""
    from transformers import AutoModelForCausalLM

    config = load_config(folder)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _loaded(source: AdapterSource) -> Any:
    adapter_class = class_of(source.config)
    assert adapter_class is not None
    return KINDS[adapter_class].load(source)


def _sparse(source: AdapterSource, base: Path) -> Iterator[tuple[str, Tensor]]:
    shapes = {
        path: (int(module.out_features), int(module.in_features))
        for path, module in _structure(base).named_modules()
        if hasattr(module, "out_features") and hasattr(module, "in_features")
    }
    fitting = AdapterSource(
        folder=source.folder, config=source.config, linears=shapes, budget=source.budget
    )
    for path, delta in sorted(_loaded(fitting).deltas.items()):
        whole = torch.zeros(shapes[path])
        delta.add_to(whole)
        yield path, whole


def _no_lora(source: AdapterSource, kind: type[Adapter]) -> UnsupportedAdapterError:
    if kind in MERGED:
        reason, remedy = MERGED[kind], "fold it into a model with `gossamer adapters merge`"
    else:
        reason = KINDS[kind].unmergeable[source.peft_type]
        remedy = "serve it with `gossamer serve`, or load it with PEFT"
    return UnsupportedAdapterError(
        f"adapter {source.name} {reason}, which no LoRA does; {remedy} instead"
    )
