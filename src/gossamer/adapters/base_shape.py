"""The sizes of a base model that readers of adapters need, and whether an adapter fits them."""

from collections.abc import Mapping
from dataclasses import dataclass

from gossamer.errors import BaseMismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """The sizes of a base model that an adapter must fit."""

    linears: Mapping[str, tuple[int, int]]
    """(h_out, h_in) of each linear layer that can be adapted, by module path."""
    num_layers: int
    """Decoder blocks."""
    hidden_size: int
    num_kv_heads: int
    head_dim: int


def require_same_base(name: str, carried: str | None, served: str | None) -> None:
    """Raise `BaseMismatchError` if both fingerprints are known and differ."""
    if carried is not None and served is not None and carried != served:
        raise BaseMismatchError(
            f"adapter {name} was trained on a base model with fingerprint {carried[:12]}, not on "
            f"this one ({served[:12]}); use the base it was trained on"
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
