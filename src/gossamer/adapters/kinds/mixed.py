"""Low-rank factors with further trained parts: biases, norms, rows of tokens, tables of tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gossamer.adapters.checks import TRAINED_PARTS
from gossamer.adapters.config import lora_spec
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.dora import DoraAdapter, load_dora, merge_dora
from gossamer.adapters.kinds.low_rank import (
    LowRankAdapter,
    load_low_rank,
    merge_low_rank,
)
from gossamer.adapters.kinds.table_factors import FactorPlaces, find_factors, names_tables
from gossamer.adapters.kinds.tokens import ids_by_layer
from gossamer.adapters.kinds.trained_parts import ADDED, PartPlaces, TrainedParts, find_parts
from gossamer.adapters.source import AdapterSource
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError


@dataclass(frozen=True)
class MixedAdapter(Adapter):
    """A checked adapter in memory that is low-rank factors and something else."""

    kind: ClassVar[str] = "mixed"
    inner: LowRankAdapter
    """The factors; a `DoraAdapter` has lengths of rows too."""
    parts: TrainedParts

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return max([self.inner.max_rank, *(each.rank for each in self.parts.factors.values())])

    @property
    def modules(self) -> Collection[str]:
        """Paths of the layers that it changes."""
        return {*self.inner.modules, *self.parts.modules}


def is_mixed(config: Any) -> bool:
    """Whether the config of a LoRA adapter says that more was trained than factors."""
    is_set = (config.get(field) not in (None, False, "none", [], {}) for field in TRAINED_PARTS)
    return any(is_set) or names_tables(config)


def load_mixed(source: AdapterSource) -> MixedAdapter:
    """Read and check a LORA adapter with further trained parts. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    ids = ids_by_layer(name, config)
    spec = lora_spec(source.folder, config, source.budget.limits)
    found: list[PartPlaces] = []
    factors: dict[str, FactorPlaces] = {}

    def find(places: Any) -> tuple[str, ...]:
        found.append(find_parts(name, places, ids, source.base))
        own, keys = find_factors(name, places, spec, source.base)
        factors.update(own)
        if own:
            _check_factors(name, config)
        return (*found[0].keys, *keys)

    if config.get("use_dora") and config.get("lora_bias"):
        raise UnsupportedAdapterError(
            f"adapter {name}: lora_bias beside use_dora is not supported; merge it into its base "
            "model with PEFT instead"
        )
    load = load_dora if config.get("use_dora") else load_low_rank
    inner = load(source, find)
    for part, path, _ in found[0].places.values():
        if part == ADDED and path not in inner.pairing.pairs:
            raise AdapterFormatError(
                f"adapter {name}: {path} has a bias of lora_B but no lora_A and lora_B"
            )
    parts = found[0].read(
        inner.file,
        scale_of=inner.spec.scale_of,
        is_tied=bool(config.get("ensure_weight_tying")) or bool(ids),
    )
    for path, pair in factors.items():
        parts.factors[path] = pair.read(inner.file, spec.scale_of(path))
    return MixedAdapter(name, inner.digest, inner, parts)


def _check_factors(name: str, config: Any) -> None:
    """Refuse what PEFT computes otherwise beside a change of the tables."""
    for field in ("use_dora", "ensure_weight_tying", "trainable_token_indices"):
        if config.get(field):
            raise UnsupportedAdapterError(
                f"adapter {name}: {field} beside low-rank factors of the embedding or the output "
                "layer is not supported; merge it into its base model with PEFT instead"
            )


def merge_mixed(adapter: MixedAdapter, path: str, layer: nn.Linear, weight: Tensor) -> None:
    """Fold the factors of the module `path` into W, in place."""
    if isinstance(adapter.inner, DoraAdapter):
        merge_dora(adapter.inner, path, layer, weight)
    else:
        merge_low_rank(adapter.inner, path, layer, weight)
