"""One way in: read and check an adapter of any kind."""

from pathlib import Path

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.table import kind_of
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.source import AdapterSource

__all__ = ["Adapter", "BaseShape", "load_adapter"]


def load_adapter(
    folder: Path,
    *,
    base: BaseShape | None = None,
    base_fingerprint: str | None = None,
    base_quantization: str | None = None,
    budget: Budget = UNBOUND,
) -> Adapter:
    """Read and check the adapter in `folder`, of whatever kind.

    With `base`, an adapter that does not fit these sizes is refused; with `base_fingerprint`, one
    that carries another fingerprint is; what exceeds `budget`, before its weights are read. With
    `base_quantization`, a warning tells of an adapter that was trained on another precision.

    Raises:
        AdapterNotFoundError: no such adapter.
        AdapterFormatError: damaged, incomplete, inconsistent, pickled, NaN inside, or more than
            the budget's limits allow.
        UnsupportedAdapterError: a type, or a feature of it, that is not computed here.
        BaseMismatchError: made for another base model.
        CapacityError: more than the budget's memory could hold.
    """
    source = AdapterSource.read(
        folder,
        base=base,
        base_fingerprint=base_fingerprint,
        base_quantization=base_quantization,
        budget=budget,
    )
    return kind_of(source).load(source)
