"""One way in: read and check an adapter of any kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.config import read_raw
from gossamer.adapters.kinds.dora import DoraAdapter, load_dora
from gossamer.adapters.kinds.ia3 import Ia3Adapter, load_ia3
from gossamer.adapters.kinds.intervention import InterventionAdapter, load_intervention
from gossamer.adapters.kinds.low_rank import LowRankAdapter, load_low_rank
from gossamer.adapters.kinds.prefix import PrefixAdapter, load_prefix
from gossamer.adapters.kinds.sparse_delta import SparseAdapter, load_shira, load_smt
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.errors import UnsupportedAdapterError

__all__ = ["Adapter", "BaseShape", "LinearAdapter", "load_adapter", "load_linear", "unsupported"]

Adapter = (
    LowRankAdapter | DoraAdapter | Ia3Adapter | SparseAdapter | InterventionAdapter | PrefixAdapter
)

LinearAdapter = LowRankAdapter | DoraAdapter | Ia3Adapter | SparseAdapter
"""Adapters of linear layers, which can be folded into their weights."""

_LINEAR: dict[str, Callable[..., LinearAdapter]] = {
    "IA3": load_ia3,
    "SHIRA": load_shira,
    "GOSSAMER_SMT": load_smt,
}
_PREFIXES = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")

_MERGE = "merge it where it was trained (PEFT's merge_and_unload) and serve that as a model"
_RESULT = "serve the result of `gossamer tune`, which is converted, not a checkpoint of the run"
_OTHER = "run it with PEFT, or tune with a method that can be served"

# Why a type that people do have cannot be an adapter here, and what to do.
_REASONS = {
    "BEFT": ("trains biases", _MERGE),
    "LN_TUNING": ("trains the weights of norms, which all requests share", _MERGE),
    "TRAINABLE_TOKENS": ("trains rows of the embedding, which all requests share", _MERGE),
    "ADALORA": ("keeps its factors in three parts", _RESULT),
    "XLORA": ("mixes adapters by a network of its own", _OTHER),
    "GOSSAMER_BOTTLENECK": ("puts networks behind the layers, which cannot be merged", _OTHER),
    "GOSSAMER_LAMDA": ("keeps its factors in three parts", _RESULT),
    "GOSSAMER_LORTA": ("keeps the factors of all layers together", _RESULT),
    "GOSSAMER_SLORA": ("is in the middle of its training", _RESULT),
    "GOSSAMER_SPARSE_LORA": ("keeps masks and factors apart", _RESULT),
}


def load_adapter(
    folder: Path,
    *,
    base: BaseShape | None = None,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
) -> Adapter:
    """Read and check the adapter in `folder`, of whatever kind.

    With `base`, an adapter that does not fit these sizes is refused; with `base_fingerprint`, one
    that carries another fingerprint is; what exceeds `budget`, before its weights are read.

    Raises:
        AdapterNotFoundError: no such adapter.
        AdapterFormatError: damaged, incomplete, inconsistent, pickled, NaN inside, or more than
            the budget's limits allow.
        UnsupportedAdapterError: a type, or a feature of it, that is not computed here.
        BaseMismatchError: made for another base model.
        CapacityError: more than the budget's memory could hold.
    """
    raw = read_raw(folder, budget.limits)
    peft_type = raw["peft_type"].upper()
    if peft_type == "GOSSAMER_REFT" or peft_type in _PREFIXES:
        load = load_intervention if peft_type == "GOSSAMER_REFT" else load_prefix
        return load(folder, base=base, base_fingerprint=base_fingerprint, budget=budget, raw=raw)
    shapes = base.linears if base is not None else None
    return load_linear(
        folder, base_shapes=shapes, base_fingerprint=base_fingerprint, budget=budget, raw=raw
    )


def load_linear(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
    raw: Mapping[str, Any] | None = None,
) -> LinearAdapter:
    """As `load_adapter`, for adapters of linear layers only; arguments as `load_low_rank`."""
    raw = read_raw(folder, budget.limits) if raw is None else raw
    peft_type = raw["peft_type"].upper()
    load = _LINEAR.get(peft_type)
    if peft_type == "LORA":
        load = load_dora if raw.get("use_dora") is True else load_low_rank
    if load is None:
        raise unsupported(folder.name, raw["peft_type"])
    return load(
        folder, base_shapes=base_shapes, base_fingerprint=base_fingerprint, budget=budget, raw=raw
    )


def unsupported(name: str, peft_type: str) -> UnsupportedAdapterError:
    """The error for a type of adapter that is not computed here."""
    reason, remedy = _REASONS.get(peft_type.upper(), ("", _MERGE))
    what = f", which {reason}," if reason else ""
    return UnsupportedAdapterError(
        f"adapter {name} is of type {peft_type}{what} and cannot be served as an adapter; {remedy}"
    )
