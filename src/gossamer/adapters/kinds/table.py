"""One row per kind of adapter: what knows it by its files. To serve it takes a row in packing too.

See "Where it will grow" in docs/architecture.md.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.dora import DoraAdapter, load_dora, merge_dora
from gossamer.adapters.kinds.ia3 import Ia3Adapter, load_ia3, merge_ia3
from gossamer.adapters.kinds.intervention import (
    InterventionAdapter,
    load_intervention,
    method_of_intervention,
)
from gossamer.adapters.kinds.low_rank import (
    LowRankAdapter,
    load_low_rank,
    merge_low_rank,
    method_of_low_rank,
)
from gossamer.adapters.kinds.mixed import MixedAdapter, is_mixed, load_mixed, merge_mixed
from gossamer.adapters.kinds.networks.bottleneck import BottleneckAdapter, load_bottleneck
from gossamer.adapters.kinds.networks.side_network import SideAdapter, load_side_network
from gossamer.adapters.kinds.networks.two_streams import TwoStreamAdapter, load_two_streams
from gossamer.adapters.kinds.prefix import PrefixAdapter, load_prefix
from gossamer.adapters.kinds.sparse_delta import SparseAdapter, load_sparse, merge_sparse
from gossamer.adapters.kinds.tokens import TokenAdapter, load_tokens
from gossamer.adapters.kinds.trained_parts import merge_parts
from gossamer.adapters.kinds.vector import VectorAdapter, load_vector
from gossamer.adapters.source import AdapterSource
from gossamer.errors import UnsupportedAdapterError


def method_of_type(config: Mapping[str, Any]) -> str:
    """Name PEFT's type in lower case."""
    return str(config["peft_type"]).lower().removeprefix("gossamer_")


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """A row of the table: what is to be known of a kind of adapter by its files."""

    types: tuple[str, ...]
    """PEFT's types that are of this kind, in capitals."""
    is_meant: Callable[[Mapping[str, Any]], bool] = lambda config: True
    """Whether a config of such a type is of this kind; the first row that says so counts."""
    load: Callable[[AdapterSource], Adapter]
    """Reads and checks an adapter."""
    merge: Callable[[Any, str, nn.Linear, Tensor], None] | None = None
    """Folds an adapter into the module of a path: its layer, and its weight [h_out, h_in] as
    float32, which is changed in place."""
    weights_of: Callable[[Any], Collection[str]] = lambda adapter: adapter.modules
    """Paths of the linear layers whose weights `merge` changes."""
    merge_parts: Callable[[Any, nn.Module], None] | None = None
    """Writes what an adapter trained beside the weights of linear layers into a model."""
    unmergeable: Mapping[str, str] = field(default_factory=dict)
    """By type, if there is nothing to fold: why."""
    method: Callable[[Mapping[str, Any]], str] = method_of_type
    """How an adapter with such a config was learned."""
    tensors: str = ""
    """Pattern of what follows a module's path in the names of its tensors, if modules have any."""
    ranked: str = ""
    """Pattern in the names of tensors whose first dimension is a rank."""
    described_types: tuple[str, ...] = ()
    """Types that do the same at inference but cannot be read here."""


def _merge_parts(adapter: Any, model: nn.Module) -> None:
    merge_parts(adapter.name, adapter.parts, model)


def _no_weights(adapter: Any) -> Collection[str]:
    return ()


def _method_of_vectors(config: Mapping[str, Any]) -> str:
    """Name our method, which leaves PEFT's type of another name."""
    return {"BEFT": "bitfit"}.get(str(config["peft_type"]).upper(), method_of_type(config))


KINDS: dict[type[Adapter], AdapterKind] = {
    MixedAdapter: AdapterKind(
        types=("LORA",),
        is_meant=is_mixed,
        load=load_mixed,
        merge=merge_mixed,
        weights_of=lambda adapter: adapter.inner.modules,
        merge_parts=_merge_parts,
        method=method_of_low_rank,
        tensors=r"\.(?:lora_|base_layer\.)",
        ranked=r"\.lora_A\.",
    ),
    DoraAdapter: AdapterKind(
        types=("LORA",),
        is_meant=lambda config: bool(config.get("use_dora")),
        load=load_dora,
        merge=merge_dora,
        method=lambda config: "dora",
        tensors=r"\.lora_",
        ranked=r"\.lora_A\.",
    ),
    LowRankAdapter: AdapterKind(
        types=("LORA",),
        load=load_low_rank,
        merge=merge_low_rank,
        method=method_of_low_rank,
        tensors=r"\.lora_",
        ranked=r"\.lora_A\.",
    ),
    Ia3Adapter: AdapterKind(
        types=("IA3",),
        load=load_ia3,
        merge=merge_ia3,
        tensors=r"\.ia3_l",
    ),
    SparseAdapter: AdapterKind(
        types=("SHIRA", "GOSSAMER_SMT"),
        load=load_sparse,
        merge=merge_sparse,
        tensors=r"\.(?:shira|smt)_",
        described_types=("SUPERTUNING",),
    ),
    InterventionAdapter: AdapterKind(
        types=("GOSSAMER_REFT",),
        load=load_intervention,
        unmergeable={"GOSSAMER_REFT": "edits hidden states at positions of the prompt"},
        method=method_of_intervention,
        ranked=r"\.reft_(?:last_)?rotate$",
    ),
    VectorAdapter: AdapterKind(
        types=("BEFT", "LN_TUNING"),
        load=load_vector,
        weights_of=_no_weights,
        merge_parts=_merge_parts,
        method=_method_of_vectors,
        tensors=r"\.(?:beft_|ln_tuning_)",
    ),
    TokenAdapter: AdapterKind(
        types=("TRAINABLE_TOKENS",),
        load=load_tokens,
        weights_of=_no_weights,
        merge_parts=_merge_parts,
        tensors=r"(?:\.token_adapter)?\.trainable_tokens_delta",
    ),
    BottleneckAdapter: AdapterKind(
        types=("GOSSAMER_BOTTLENECK",),
        load=load_bottleneck,
        unmergeable={"GOSSAMER_BOTTLENECK": "puts networks behind layers"},
        tensors=r"\.bottleneck_",
        ranked=r"\.bottleneck_down\.weight",
    ),
    SideAdapter: AdapterKind(
        types=("GOSSAMER_SHERL",),
        load=load_side_network,
        unmergeable={"GOSSAMER_SHERL": "puts a network between early and late layers"},
    ),
    TwoStreamAdapter: AdapterKind(
        types=("GOSSAMER_MEFT",),
        load=load_two_streams,
        unmergeable={"GOSSAMER_MEFT": "computes the model's layers on two streams"},
    ),
    PrefixAdapter: AdapterKind(
        types=("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
        load=load_prefix,
        unmergeable={
            "PROMPT_TUNING": "is virtual tokens in front of the prompt",
            "P_TUNING": "is virtual tokens in front of the prompt",
            "PREFIX_TUNING": "is keys and values in front of the prompt",
        },
    ),
}

_MERGE = "merge it where it was trained (PEFT's merge_and_unload) and serve that as a model"
_RESULT = "serve the result of `gossamer tune`, which is converted, not a checkpoint of the run"
_CONVERT = "make LoRA of it with `gossamer adapters convert` and serve that"
_OTHER = "run it with PEFT, or tune with a method that can be served"

# Why a type that people do have cannot be an adapter here, and what to do.
_WITHOUT_KIND = {
    "ADALORA": ("keeps its factors in three parts", _RESULT),
    "XLORA": ("mixes adapters by a network of its own", _OTHER),
    "GOSSAMER_LAMDA": ("keeps its factors in three parts", _CONVERT),
    "GOSSAMER_LORTA": ("keeps the factors of all layers together", _CONVERT),
    "GOSSAMER_SLORA": ("keeps single weights beside factors", _CONVERT),
    "GOSSAMER_SPARSE_LORA": ("keeps masks and factors apart", _CONVERT),
}


def class_of(config: Mapping[str, Any], *, described: bool = False) -> type[Adapter] | None:
    """Find the class of adapters with this config; None if there is none here.

    With `described`, types that can only be described have one too.
    """
    peft_type = str(config["peft_type"]).upper()
    for adapter_class, kind in KINDS.items():
        types = kind.types + (kind.described_types if described else ())
        if peft_type in types and kind.is_meant(config):
            return adapter_class
    return None


def kind_of(source: AdapterSource) -> AdapterKind:
    """Find the row of an adapter's kind; raises `UnsupportedAdapterError` for types without one."""
    adapter_class = class_of(source.config)
    if adapter_class is not None:
        return KINDS[adapter_class]
    reason, remedy = _WITHOUT_KIND.get(source.peft_type, ("", _MERGE))
    what = f", which {reason}," if reason else ""
    raise UnsupportedAdapterError(
        f"adapter {source.name} is of type {source.config['peft_type']}{what} and cannot be "
        f"served as an adapter; {remedy}"
    )
