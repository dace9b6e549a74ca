"""Trained tokens: some rows of the embedding, and of the output layer where both are one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.trained_parts import ROWS, TrainedParts, find_parts, token_ids
from gossamer.adapters.source import AdapterSource
from gossamer.errors import UnsupportedAdapterError


@dataclass(frozen=True)
class TokenAdapter(Adapter):
    """A checked adapter in memory with rows of its own for some tokens."""

    kind: ClassVar[str] = "tokens"
    parts: TrainedParts

    @property
    def modules(self) -> Collection[str]:
        """Paths of the embedding and the output layer, where it changes them."""
        return self.parts.modules


def load_tokens(source: AdapterSource) -> TokenAdapter:
    """Read and check a TRAINABLE_TOKENS adapter. Raises as `load_low_rank`."""
    name, config = source.name, source.config
    refuse_fields(name, config, REFUSED, {*COMMON, "init_weights", "token_indices"})
    ids = {"": token_ids(name, "token_indices", config.get("token_indices"))}
    with source.open_weights() as stored:
        found = find_parts(name, stored.header.places, ids, source.base)
        for key in stored.header.places:
            if key not in found.places or found.places[key][0] != ROWS:
                raise UnsupportedAdapterError(
                    f"adapter {name} holds the tensor {key}, which is no row of a token"
                )
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    return TokenAdapter(name, source.digest(weights), found.read(weights, is_tied=True))


def ids_by_layer(name: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the trained tokens of a LoRA config by the end of the path of what holds their rows.

    Raises `AdapterFormatError`.
    """
    value = config.get("trainable_token_indices")
    if not value:
        return {}
    if not isinstance(value, dict):
        return {"": token_ids(name, "trainable_token_indices", value)}
    return {
        str(layer): token_ids(name, f"trainable_token_indices['{layer}']", ids)
        for layer, ids in value.items()
    }
