"""What crosses between the processes of a cluster: calls there, events back, facts and figures.

Plain frozen dataclasses and tuples. Errors cross as their class and message, since most cannot be
pickled; adapters cross by digest, and messages about them are given their names back.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossamer import errors
from gossamer.errors import GossamerError, ServingError
from gossamer.serving.core.messages import Event, Failed, Finished, Request, Tokens
from gossamer.serving.core.stats import MOST_NAMES
from gossamer.serving.core.validation import EngineLimits

_FIELDS = ("retry_after", "param", "code")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledAdapter:
    """Names the content that a request is for, whatever the name comes to mean meanwhile."""

    name: str
    digest: str
    """Empty: each replica finds it by its name, in a folder."""
    place: str
    """Where it lies in the store; empty without a digest."""
    weight: float | None = None
    """The weight in a mixture; None: it is used alone."""


def _size(adapter: CalledAdapter) -> float:
    return 1.0 if adapter.weight is None else abs(adapter.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCall:
    """Asks a replica for the events of one request."""

    request: Request
    adapters: tuple[CalledAdapter, ...] = ()
    """What it uses; none: the base model alone."""
    tried: tuple[int, ...] = ()
    """Ranks of the replicas that have refused it."""

    @property
    def home_of(self) -> str | None:
        """Return the adapter by whose homes a replica is chosen: of a mixture, the heaviest."""
        if not self.adapters:
            return None
        return max(self.adapters, key=_size).name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFailure:
    """Tells how a request failed on a replica."""

    request_id: str
    kind: str
    """The error's class."""
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    rank: int
    """The replica's."""

    @classmethod
    def of(
        cls, request_id: str, error: GossamerError, rank: int, names: Mapping[str, str]
    ) -> "ReplicaFailure":
        """Describe `error`; `names` has the names of adapters by digest."""
        message = str(error)
        for digest, name in names.items():
            message = message.replace(digest, name)
        known = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
        return cls(
            request_id=request_id,
            kind=type(error).__name__,
            message=message,
            fields=known,
            rank=rank,
        )

    def error(self) -> GossamerError:
        """Build the error again, of its class where that is one of ours."""
        kind = getattr(errors, self.kind, ServingError)
        if not (isinstance(kind, type) and issubclass(kind, GossamerError)):
            kind = ServingError
        # Constructors differ; what they add is set here.
        error: GossamerError = kind.__new__(kind)
        GossamerError.__init__(error, self.message)
        for name, value in self.fields.items():
            setattr(error, name, value)
        return error


WireEvent = Tokens | Finished | ReplicaFailure


def to_wire(event: Event, rank: int, names: Mapping[str, str]) -> WireEvent:
    """Make an event fit to cross."""
    if isinstance(event, Failed):
        return ReplicaFailure.of(event.request_id, event.error, rank, names)
    return event


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """Describes what all replicas have in common."""

    model_name: str
    special_tokens: str
    max_context: int
    limits: EngineLimits
    num_blocks: int


FIGURES = (
    "num_running", "num_waiting", "max_running", "blocks_total", "blocks_free", "blocks_kv",
    "blocks_adapters", "blocks_cached", "block_bytes", "adapters_resident", "adapters_host",
    "host_bytes", "adapter_loads", "adapter_evictions", "preemptions", "steps", "prompt_tokens",
    "generated_tokens", "prefix_queried_tokens", "prefix_hit_tokens", "prefix_evictions",
)  # fmt: skip
"""The numbers of `EngineStats` that a replica reports, several times a minute."""
COUNTED = ("finished", "adapter_hits")
"""The numbers that are counted by reason or place."""
NAMED = ("running_adapters", "waiting_adapters")
"""The names of adapters that requests use now."""


def figures_of(stats: Any, names: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Take what crosses of `EngineStats`; `names` has those that clients use by the engine's."""
    figures = {name: getattr(stats, name) for name in (*FIGURES, *COUNTED)}
    for each in NAMED:
        called = {name for key in getattr(stats, each) for name in names.get(key, ())}
        figures[each] = sorted(called)[:MOST_NAMES]
    return figures


def summed(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the figures of several replicas, and the names; the size of a block is that of any."""
    total: dict[str, Any] = {name: sum(each[name] for each in figures) for name in FIGURES}
    total["block_bytes"] = max((each["block_bytes"] for each in figures), default=0)
    for name in COUNTED:
        keys = {key for each in figures for key in each[name]}
        total[name] = {key: sum(each[name].get(key, 0) for each in figures) for key in keys}
    for name in NAMED:
        total[name] = frozenset(adapter for each in figures for adapter in each[name])
    return total
