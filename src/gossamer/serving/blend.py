"""Several adapters with weights in one request: `poet:0.7+pirate:0.3`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from gossamer.errors import (
    AdapterFormatError,
    GossamerError,
    RequestError,
    ServingError,
    UnsupportedAdapterError,
    cut,
)
from gossamer.serving.adapter_entry import AdapterEntry, AdapterState

MAX_PARTS = 8
"""Adapters of one request."""

SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Sizes of weights other than 0: what float32 holds with all its digits."""

COMBINABLE = ("low-rank", "sparse")
"""Kinds that add something to a layer's output, so that a weighted sum of them is exact."""

# A blend is no further than the part that is least far.
_ORDER = (
    AdapterState.REFUSED,
    AdapterState.REPLACED,
    AdapterState.UNREADABLE,
    AdapterState.REMOVED,
    AdapterState.REGISTERED,
    AdapterState.LOADING,
    AdapterState.PLACING,
    AdapterState.HOST,
    AdapterState.RESIDENT,
)


@dataclass(frozen=True, slots=True)
class Blend:
    """Adapters with weights. Has no rows of its own: each token meets those of every part."""

    parts: tuple[AdapterEntry, ...]
    weights: tuple[float, ...]

    @property
    def uses(self) -> tuple[tuple[AdapterEntry, float], ...]:
        """Each part with its weight."""
        return tuple(zip(self.parts, self.weights, strict=True))

    @property
    def name(self) -> str:
        """As requests give it."""
        return blend_name({part.name: weight for part, weight in self.uses})

    @property
    def state(self) -> AdapterState:
        """That of the part which is least far; refused if there is an error."""
        if self._fault is not None:
            return AdapterState.REFUSED
        return min((part.state for part in self.parts), key=_ORDER.index)

    @property
    def error(self) -> GossamerError | None:
        """The first part's that has one, or that a part is of a kind that has no weighted sum."""
        errors = (part.error for part in self.parts if part.error is not None)
        return self._fault or next(errors, None)

    @property
    def _fault(self) -> GossamerError | None:
        """An error other than that a part was replaced, which looking up again may cure."""
        for part in self.parts:
            if part.error is not None and part.state is not AdapterState.REPLACED:
                return part.error
            if part.kind is not None and part.kind not in COMBINABLE:
                return UnsupportedAdapterError(
                    f"adapter {part.name} is of kind {part.kind}, of which there is no weighted "
                    f"sum; only {' and '.join(COMBINABLE)} adapters can be combined"
                )
        return None

    @property
    def num_blocks(self) -> int | None:
        """Of all parts; None until all are read."""
        counts = [part.num_blocks for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def file_bytes(self) -> int:
        """Of all parts on disk."""
        return sum(part.file_bytes for part in self.parts)

    @property
    def blocks_to_load(self) -> int:
        """Blocks of the parts that are not resident."""
        return sum(part.blocks_to_load for part in self.parts)

    @property
    def rank(self) -> int:
        """Ranks of all parts together."""
        return sum(part.rank or 0 for part in self.parts)

    @property
    def num_virtual_tokens(self) -> int:
        """None of the kinds that can be combined has any."""
        return 0

    @property
    def num_bytes(self) -> int | None:
        """Of all parts; None until all are read."""
        sizes = [part.num_bytes for part in self.parts]
        return None if None in sizes else sum(size or 0 for size in sizes)


AnyAdapter = AdapterEntry | Blend
"""What a request may name."""


def not_finite(adapter: AnyAdapter | None) -> GossamerError:
    """Why a request with `adapter` ends whose output is no number: weights that are too large are
    the request's fault, numbers that are too large the adapter's."""
    what = "the model's output for this request is not a finite number"
    if isinstance(adapter, Blend):
        return RequestError(f"model '{adapter.name}': {what}; use smaller weights", param="model")
    if adapter is not None:
        return AdapterFormatError(
            f"adapter {adapter.name}: {what}; numbers in the adapter are too large, train it again"
        )
    return ServingError(what)


def parse_blend(name: str) -> list[tuple[str, float]] | None:
    """(adapter, weight) of each part of `name`; None if it is a single plain name.

    Parts are joined by `+`; a part is a name, or a name and a weight joined by `:`.

    Raises:
        RequestError: a weight that is no finite number, a name twice, too many parts.
    """
    if "+" not in name and ":" not in name:
        return None
    parts = []
    for text in name.split("+"):
        part, colon, weight = text.rpartition(":")
        parts.append((part.strip(), _weight(name, weight)) if colon else (text.strip(), 1.0))
    names = [part for part, _ in parts]
    if "" in names:
        raise _wrong(name, "an adapter's name is missing")
    if len(set(names)) < len(names):
        twice = next(part for part in names if names.count(part) > 1)
        raise _wrong(name, f"'{cut(twice)}' is named twice")
    if len(parts) > MAX_PARTS:
        raise _wrong(name, f"{len(parts)} adapters are more than {MAX_PARTS}")
    return parts


def adapters_in(name: str) -> tuple[str, ...]:
    """Names of the adapters that a request for `name` uses, which may be a mixture.

    Whoever judges a request and whoever looks its adapters up both go by this, so that nobody can
    be let in for one adapter and get another. Raises as `parse_blend`.
    """
    parts = parse_blend(name)
    return (name,) if parts is None else tuple(part for part, _ in parts)


def blend_name(weights: Mapping[str, float]) -> str:
    """How a request names adapters with these weights."""
    return "+".join(f"{name}:{_plain(weight)!r}" for name, weight in weights.items())


def _plain(weight: float) -> float:
    """Without a type of NumPy's, which `repr` would name."""
    try:
        return float(weight) if isinstance(weight, Real) else weight
    except OverflowError:  # a whole number that is refused when it is parsed
        return weight


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if math.isnan(weight):
        raise _wrong(name, f"'{text[:50]}' is not a weight")
    if weight and not SMALLEST <= abs(weight) <= LARGEST:
        raise _wrong(
            name,
            f"the weight {text[:50]} cannot be computed with; use 0, or a number of "
            f"{SMALLEST:.2g} to {LARGEST:.2g} with either sign",
        )
    return weight


def _wrong(name: str, what: str) -> RequestError:
    return RequestError(
        f"model '{cut(name)}': {what}; write name:weight+name:weight, such as poet:0.7+pirate:0.3",
        param="model",
    )
