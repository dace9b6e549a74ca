"""What a reader of adapters must know of the base model: its sizes, not its weights."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """Sizes of a base model, which an adapter must fit."""

    linears: Mapping[str, tuple[int, int]]
    """(h_out, h_in) of each linear layer that can be adapted, by module path."""
    num_layers: int
    """Decoder blocks."""
    hidden_size: int
    num_kv_heads: int
    head_dim: int
