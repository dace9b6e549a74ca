"""Describes an adapter as the scheduler sees it, and mixtures (`poet:0.7+pirate:0.3`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

from gossamer.errors import (
    AdapterFormatError,
    GossamerError,
    RequestError,
    ServingError,
    UnsupportedAdapterError,
    cut,
)
from gossamer.serving.core.adapter_state import AdapterLife, AdapterState
from gossamer.serving.core.tuned_name import split_weight

HALF_LIFE = 60.0
"""Seconds after which a past use counts half."""


@dataclass(slots=True)
class Heat:
    """Counts how often something was used lately; the count halves every `HALF_LIFE` seconds."""

    amount: float = 0.0
    at: float = 0.0

    def touch(self, now: float, times: int = 1) -> None:
        """Count one more use, or several."""
        self.amount = self.count(now) + times
        self.at = now

    def count(self, now: float) -> float:
        """Return the recent uses, of which older ones count less."""
        return self.amount * 2.0 ** ((self.at - now) / HALF_LIFE)

    def chance(self, now: float) -> float:
        """Return the probability of a use within `HALF_LIFE`, if uses go on to come at random.

        A fading count `c` means `c ln 2` uses per half-life; that none comes has probability
        exp(-c ln 2) = 2^-c.
        """
        return 1.0 - 2.0 ** -self.count(now)


def value(chance: float, seconds_to_return: float, num_blocks: int) -> float:
    """Return the seconds that a block of it is expected to save: what has the least goes first.

    The size counts as in cost-aware caches (Chameleon, arXiv 2411.17741): of two things used as
    often, the one that is quick to bring back for its size goes.
    """
    return chance * seconds_to_return / max(1, num_blocks)


Signature = tuple[tuple[int, ...], ...]
"""(inode, size, time of writing, time of change, device) of each file; the last two may be missing
where there is no disk."""


@dataclass(eq=False, slots=True, kw_only=True)
class AdapterEntry(AdapterLife):
    """Stands for one version of an adapter: the files under `name` when it was looked up."""

    name: str
    path: Path
    signature: Signature
    """The signature of its files, the weights last; tells versions apart without reading them."""
    users: int = 0
    """Running sequences; > 0 forbids eviction."""
    requests: int = 0
    """Accepted requests that have not ended; an unload waits for them."""
    pinned: bool = False
    """Never evicted, neither from the pool nor from host memory."""
    draining: bool = False
    """Unloaded: no new request gets it, accepted ones end with it."""
    hits: int = 0
    """Requests that named it."""
    used_at: float | None = None
    """Unix time of the last of them."""
    heat: Heat = field(default_factory=Heat)
    """A decaying count of its uses, for eviction."""
    last_used: int = 0
    """A count that grows with every use."""

    @property
    def parts(self) -> "tuple[AdapterEntry, ...]":
        """Return the adapters that a request for this one uses."""
        return (self,)

    @property
    def uses(self) -> "tuple[tuple[AdapterEntry, float], ...]":
        """Return the adapters that a request for this one uses, each with its weight."""
        return ((self, 1.0),)

    def is_version_of(self, other: "AdapterEntry") -> bool:
        """Tell whether both are the same files in the same place."""
        return self.signature == other.signature and self.path == other.path

    @property
    def file_bytes(self) -> int:
        """Return the bytes of its weights on disk."""
        return self.signature[-1][1]

    @property
    def digest(self) -> str | None:
        """See `AdapterFacts`, as all that follow; None until it was read."""
        return self.facts.digest if self.facts is not None else None

    @property
    def kind(self) -> str | None:
        """Return what it does at inference; None until it was read."""
        return self.facts.kind if self.facts is not None else None

    @property
    def rank(self) -> int | None:
        """Return the largest rank of any module; None until it was read."""
        return self.facts.rank if self.facts is not None else None

    @property
    def num_blocks(self) -> int | None:
        """Return the blocks that its rows take in the pool; None until it was read."""
        return self.facts.num_blocks if self.facts is not None else None

    @property
    def num_bytes(self) -> int | None:
        """Return the bytes that its rows take in the pool; None until it was read."""
        return self.facts.num_bytes if self.facts is not None else None

    @property
    def num_virtual_tokens(self) -> int:
        """Return the positions that its prefix takes before the prompt; 0 until it was read."""
        return self.facts.num_virtual_tokens if self.facts is not None else 0

    @property
    def edited(self) -> tuple[int, int] | None:
        """Return how many first and last positions of a prompt it edits; None if none."""
        return self.facts.edited if self.facts is not None else None

    @property
    def is_copied(self) -> bool:
        """Tell whether placing it is but a copy."""
        return self.facts is None or self.facts.is_copied

    def add_ref(self) -> None:
        """Count an accepted request."""
        self.requests += 1

    def drop_ref(self) -> None:
        """An accepted request has ended."""
        assert self.requests > 0
        self.requests -= 1

    def set_pinned(self, pinned: bool) -> None:
        """Keep it in the pool and in host memory for its own sake, or no longer."""
        self.pinned = pinned

    def start_draining(self) -> None:
        """Give it to no new request; there is no way back."""
        self.draining = True

    def count_hit(self, now: float) -> None:
        """Count a request that names it, at the Unix time `now`."""
        self.hits += 1
        self.used_at = now

    def add_user(self, number: int, now: float) -> None:
        """Count a running sequence; `number` is the use's, `now` on the clock of the heat."""
        assert self.state is AdapterState.RESIDENT
        self.users += 1
        self.last_used = number
        self.heat.touch(now)

    def drop_user(self, number: int | None = None) -> None:
        """A running sequence has left, or it never came to run (no number)."""
        assert self.users > 0
        self.users -= 1
        if number is not None:
            self.last_used = number

    @property
    def blocks_to_load(self) -> int:
        """Return the blocks that it takes when it becomes resident."""
        is_in_blocks = self.state in (AdapterState.RESIDENT, AdapterState.PLACING)
        return 0 if is_in_blocks else self.num_blocks or 0

    @property
    def seconds_to_return(self) -> float:
        """Return how long it would take to have it back after eviction; 1 ms at least."""
        reading = self.facts.read_seconds if self.facts is not None and self.rows is None else 0.0
        return max(reading + self.place_seconds, 1e-3)


MAX_PARTS = 8
"""Adapters of one request."""

SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Sizes of weights other than 0: what float32 holds with all its digits."""

COMBINABLE = ("low-rank", "sparse", "vector")
"""Kinds that add something to the output of a layer or a norm, so that a weighted sum of them is
exact."""

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
    """Mixes adapters with weights; has no rows of its own: tokens meet those of every part."""

    parts: tuple[AdapterEntry, ...]
    weights: tuple[float, ...]

    @property
    def uses(self) -> tuple[tuple[AdapterEntry, float], ...]:
        """Return each part with its weight."""
        return tuple(zip(self.parts, self.weights, strict=True))

    @property
    def name(self) -> str:
        """Return its name as requests give it."""
        return blend_name({part.name: weight for part, weight in self.uses})

    @property
    def state(self) -> AdapterState:
        """Return the state of the part which is least far; refused if there is an error."""
        if self._fault is not None:
            return AdapterState.REFUSED
        return min((part.state for part in self.parts), key=_ORDER.index)

    @property
    def error(self) -> GossamerError | None:
        """Return the first part's error, or that a part is of a kind that has no weighted sum."""
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
                    f"sum; only {', '.join(COMBINABLE)} adapters can be combined"
                )
        return None

    @property
    def num_blocks(self) -> int | None:
        """Return the blocks of all parts; None until all are read."""
        counts = [part.num_blocks for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def file_bytes(self) -> int:
        """Return the bytes of all parts on disk."""
        return sum(part.file_bytes for part in self.parts)

    @property
    def blocks_to_load(self) -> int:
        """Return the blocks of the parts that are not resident."""
        return sum(part.blocks_to_load for part in self.parts)

    @property
    def rank(self) -> int:
        """Return the ranks of all parts together."""
        return sum(part.rank or 0 for part in self.parts)

    @property
    def num_virtual_tokens(self) -> int:
        """Return 0: none of the kinds that can be combined has any."""
        return 0

    @property
    def num_bytes(self) -> int | None:
        """Return the bytes of all parts; None until all are read."""
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
    """Return (adapter, weight) of each part of `name`; None if it is a single plain name.

    Parts are joined by `+`; a part is a name, or a name and a weight joined by `:`. Names of
    fine-tuned models hold that sign too (`tuned_name`).

    Raises:
        RequestError: a weight that is no finite number, a name twice, too many parts.
    """
    if "+" not in name and split_weight(name)[1] is None:
        return None
    parts = []
    for text in name.split("+"):
        part, weight = split_weight(text.strip())
        parts.append((part.strip(), 1.0 if weight is None else _weight(name, weight)))
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
    """Return the names of the adapters that a request for `name` uses, which may be a mixture.

    Those who judge a request and those who look its adapters up both go by this, so that none can
    be let in for one adapter and get another. Raises as `parse_blend`.
    """
    parts = parse_blend(name)
    return (name,) if parts is None else tuple(part for part, _ in parts)


def blend_name(weights: Mapping[str, float]) -> str:
    """Return how a request names adapters with these weights."""
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
