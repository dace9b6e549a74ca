"""The sizes of a base model that readers of adapters need, and whether an adapter fits them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from gossamer.errors import BaseMismatchError, cut, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """The sizes of a base model that an adapter must fit."""

    linears: Mapping[str, tuple[int, int]]
    """(h_out, h_in) of each linear layer that can be adapted, by module path."""
    num_layers: int
    """Decoder blocks."""
    hidden_size: int
    num_kv_heads: int
    """Key/value heads of the layer that has the most."""
    head_dim: int
    layer_kv_heads: tuple[int, ...] = ()
    """Key/value heads of each layer; empty: all have `num_kv_heads`."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """Lengths of the weights and biases of norms and of the biases of linear layers, by name."""
    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(tokens, width) of the embedding and of the output layer, by module path."""

    @property
    def total_kv_heads(self) -> int:
        """Key/value heads of all layers together."""
        return sum(self.layer_kv_heads) or self.num_layers * self.num_kv_heads


def require_same_base(name: str, carried: str | None, served: str | None) -> None:
    """Raise `BaseMismatchError` if both fingerprints are known and differ."""
    if carried is not None and served is not None and carried != served:
        raise BaseMismatchError(
            f"adapter {name} was trained on a base model with fingerprint {carried[:12]}, not on "
            f"this one ({served[:12]}); use the base it was trained on"
        )


def compare_quantization(name: str, carried: str | None, served: str | None) -> None:
    """Warn if an adapter was trained on a base quantised as `carried`, and `served` is another."""
    if carried is not None and served is not None and carried != served:
        _warn(name, cut(carried, 40), served)


@lru_cache(maxsize=1024)
def _warn(name: str, carried: str, served: str) -> None:
    """Once for each adapter, however often it is read."""
    here = "whole" if served == "none" else f"quantised as {served}"
    log.warning(
        one_line(
            f"adapter {name} was trained on a base model quantised as {carried}, and this one is "
            f"{here}: its answers differ a little from those it was trained to give; for those, "
            f"serve with --quantization {carried}"
        )
    )


def require_linear(
    name: str, module: str, base_shapes: Mapping[str, tuple[int, int]]
) -> tuple[int, int]:
    """Return (h_out, h_in) of `module`; raises `BaseMismatchError` if the base lacks the layer."""
    if module not in base_shapes:
        raise BaseMismatchError(
            f"adapter {name} adapts {module}, which is no linear layer that can be adapted in "
            "this base model; use the base it was trained on"
        )
    return base_shapes[module]


def require_shape(name: str, what: str, own: tuple[int, ...], base: tuple[int, ...]) -> None:
    """Raise `BaseMismatchError` unless `own`, the shape of `what`, is that of the base."""
    if own != base:
        raise BaseMismatchError(
            f"adapter {name}: {what} has shape {list(own)}, but the base model needs {list(base)}; "
            "use the base it was trained on"
        )
