"""Holds the figures of a running engine: gauges, counters, histograms, adapters, tenants."""

from bisect import bisect_left
from dataclasses import dataclass, field

from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter, Blend
from gossamer.serving.core.adapter_state import AdapterState

LOAD_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds to read an adapter."""
MOST_NAMES = 256
"""The most names of adapters that are told of at a time."""


@dataclass(frozen=True, slots=True)
class HistogramStats:
    """Shows a histogram at one moment."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Values up to each bound and above the one before; then those above all."""
    total: float
    """Sum of the values."""


class Histogram:
    """Sorts values into buckets. One thread observes; any may take a snapshot."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def stats(self) -> HistogramStats:
        """Take a snapshot."""
        return HistogramStats(self._bounds, tuple(self._counts), self._total)


ADAPTER_BOUNDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
RANK_BOUNDS = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
PARTS = ("build", "model", "sampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Shows sums over all steps at one moment."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Spent on building batches, on the model, and on choosing tokens."""
    adapters: HistogramStats = field(default_factory=Histogram(ADAPTER_BOUNDS).stats)
    """Distinct adapters in a step."""
    rank: HistogramStats = field(default_factory=Histogram(RANK_BOUNDS).stats)
    """The sum of the ranks of a step's adapters."""


class StepFigures:
    """Counts steps; used by the engine's thread."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._adapters = Histogram(ADAPTER_BOUNDS)
        self._rank = Histogram(RANK_BOUNDS)
        self._last: list[AnyAdapter] = []
        self._last_counts = (0, 0)
        """The adapters of the last step, and their number and ranks: mostly those of the next."""

    def observe(self, adapters: list[AnyAdapter], moments: tuple[float, ...]) -> None:
        """Count a step with `adapters`; `moments`: its begin, and the end of each of `PARTS`."""
        if adapters != self._last:
            parts = {entry for adapter in adapters for entry in adapter.parts}
            self._last, self._last_counts = adapters, (len(parts), sum(e.rank or 0 for e in parts))
        number, rank = self._last_counts
        self._adapters.observe(number)
        self._rank.observe(rank)
        for part, begin, end in zip(PARTS, moments, moments[1:], strict=False):
            self._seconds[part] += end - begin

    def stats(self) -> StepStats:
        """Take a snapshot."""
        return StepStats(
            seconds=dict(self._seconds), adapters=self._adapters.stats(), rank=self._rank.stats()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """Shows one adapter that can be named in a request."""

    name: str
    state: str
    """registered (on disk only), loading, host (read, not in the pool), resident, draining
    (unloaded, and accepted requests still use it), or refused."""
    kind: str | None = None
    rank: int | None = None
    """Largest rank of any module."""
    num_bytes: int | None = None
    """Bytes its weights take in the pool (resident) or would take (known only once read)."""
    digest: str | None = None
    problem: str | None = None
    """Why it is refused."""
    alias_of: str | None = None
    """The adapter whose second name this is: a link to its folder from beside it."""
    created: int = 0
    """Unix time of its weights file."""
    pinned: bool = False
    """Never evicted."""
    requests: int = 0
    """That wait for it or run with it now."""
    hits: int = 0
    """Requests that named it since it was found."""
    last_used: float | None = None
    """Unix time of the last of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStats:
    """Shows one tenant's part in the engine's work since the start."""

    name: str
    num_waiting: int
    num_running: int
    prompt_tokens: int
    """Prompt tokens of requests that were started; counted once."""
    generated_tokens: int
    first_tokens: int
    """Requests that got a first token."""
    in_time: int | None
    """Requests that got it within the promised time; None where none is promised."""
    satisfaction: float | None
    """Sum over those requests of max(0, 1 - (seconds to first token / promised seconds)^2)."""
    refused: dict[str, int]
    """Requests refused with status 429 by reason: queue (full), quota, deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """Shows who has which blocks, and what became of adapters and prefixes since the start."""

    num_blocks: int
    num_free: int
    num_cached: int
    """Blocks that hold keys and values which are not in use now."""
    num_of_adapters: int
    """Blocks of adapters that are resident or on the way."""
    num_resident: int
    """Adapters whose rows are in blocks."""
    resident_bytes: dict[str, int]
    """Bytes of each of them."""
    num_loads: int
    num_evictions: int
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    prefix_evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStats:
    """Shows where adapters are, and how requests have found them since the start."""

    by_state: dict[str, int]
    num_host: int
    """Adapters in the host cache."""
    host_bytes: int
    """Bytes that they take there."""
    hits: dict[str, int]
    """Requests by where their adapter was when they came: resident, host or disk."""
    read_seconds: HistogramStats


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeStats:
    """Shows what merge mode has done since the start; see the fields of `EngineStats`."""

    merged_adapter: str | None = None
    adapter_merges: int = 0
    merged_steps: int = 0


GRAMMAR_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds to compile a grammar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarStats:
    """Shows the forms that answers had to have since the start, and how they were compiled."""

    asked: int = 0
    """Sequences that asked for a form."""
    hits: int = 0
    """Sequences whose form was compiled already, or was being compiled for another."""
    refused: int = 0
    """Sequences whose form cannot be kept to, is too large, or takes too long to compile."""
    kept: int = 0
    """Compiled forms that are kept now."""
    seconds: HistogramStats = field(default_factory=Histogram(GRAMMAR_BOUNDS).stats)
    """To compile a form, those that were refused included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Shows gauges, and counters since the start."""

    num_running: int
    num_waiting: int
    max_running: int = 0
    """Requests that are computed at a time at most, each with an adapter of its own if need be."""
    running_adapters: frozenset[str] = frozenset()
    """The adapters of requests that have a place in the batch, by name."""
    waiting_adapters: frozenset[str] = frozenset()
    """The adapters of requests in the queue, by name."""
    blocks_total: int
    blocks_free: int
    blocks_kv: int
    blocks_adapters: int
    blocks_cached: int = 0
    """Blocks whose keys and values are not in use now; they are given away when needed."""
    block_bytes: int
    adapters_resident: int
    adapters_by_state: dict[str, int] = field(default_factory=dict)
    """The adapters that can be named, by state; those not asked for yet count as registered."""
    resident_bytes: dict[str, int] = field(default_factory=dict)
    """The bytes of each resident adapter, by name."""
    adapters_host: int = 0
    """In the host cache; resident ones may be among them."""
    host_bytes: int = 0
    """That they take there."""
    adapter_hits: dict[str, int] = field(default_factory=dict)
    """Requests by where their adapter was when they came: resident, host or disk."""
    adapter_read_seconds: HistogramStats = field(default_factory=Histogram(LOAD_BOUNDS).stats)
    """To read and check an adapter."""
    adapter_loads: int
    adapter_evictions: int
    preemptions: int
    steps: int
    prompt_tokens: int
    """Prompt tokens computed, recomputation after preemption included."""
    generated_tokens: int
    finished: dict[str, int]
    """Final events by reason: stop, length, cancelled, failed."""
    prefix_queried_tokens: int = 0
    """Prompt tokens of requests that were started with the prefix cache on."""
    prefix_hit_tokens: int = 0
    """Prompt tokens of those requests that the prefix cache had."""
    prefix_evictions: int = 0
    """Blocks of prefixes that were given to somebody else."""
    step: StepStats = field(default_factory=StepStats)
    merged_adapter: str | None = None
    """The adapter of which there is a merged copy of the base weights now."""
    adapter_merges: int = 0
    """Merged copies that were made."""
    merged_steps: int = 0
    """Steps that ran on merged weights."""
    tenants: tuple[TenantStats, ...] = ()
    grammars: GrammarStats = field(default_factory=GrammarStats)


def status_of(entry: AdapterEntry, name: str | None = None) -> AdapterStatus:
    """Show what is known of `entry` now; `name` is the one it was asked for by, if not its own."""
    return AdapterStatus(
        name=name or entry.name,
        alias_of=entry.name if name not in (None, entry.name) else None,
        state=state_of(entry),
        kind=entry.kind,
        rank=entry.rank,
        num_bytes=entry.num_bytes,
        digest=entry.digest,
        problem=str(entry.error) if entry.error is not None else None,
        created=int(entry.signature[-1][2] // 1_000_000_000) if entry.signature else 0,
        pinned=entry.pinned,
        requests=entry.requests,
        hits=entry.hits,
        last_used=entry.used_at,
    )


def status_of_blend(blend: Blend, name: str) -> AdapterStatus:
    """Show what is known of a mixture that is asked for as `name`; as far as its last part."""
    parts = [status_of(part) for part in blend.parts]
    kinds = {part.kind for part in parts}
    return AdapterStatus(
        name=name,
        state="loading" if blend.state is AdapterState.PLACING else blend.state.value,
        kind=kinds.pop() if len(kinds) == 1 else "mixture",
        rank=blend.rank or None,
        num_bytes=blend.num_bytes,
        created=max(part.created for part in parts),
    )


def state_of(entry: AdapterEntry) -> str:
    """Name its state; `loading` until it is resident, whatever is done to it meanwhile."""
    if entry.draining and entry.state is not AdapterState.REMOVED:
        return "draining"
    return "loading" if entry.state is AdapterState.PLACING else entry.state.value
