"""A snapshot of the engine's gauges and counters, taken from any thread."""

from collections import Counter
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import EngineStats, StepStats, TenantStats
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.scheduler.hot_merge import HotMerger
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.store.manager import AdapterManager


@dataclass(slots=True)
class Counts:
    """What the engine's thread has done since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(
        default_factory=lambda: Counter(stop=0, length=0, cancelled=0, failed=0)
    )


def stats_of(
    adapters: AdapterManager,
    scheduler: Scheduler,
    pool: BlockPool,
    merger: HotMerger | None,
    *,
    counts: Counts,
    step: StepStats,
    block_bytes: int,
    open_requests: Several[Sequence],
) -> EngineStats:
    """See `EngineInterface.stats`; `open_requests` have not had their final event."""
    resident = adapters.resident
    blocks_adapters = sum(len(entry.blocks) for entry in (*resident, *adapters.placing))
    blocks_cached = adapters.prefixes.num_idle
    free = pool.num_free
    running = list(scheduler.running)
    return EngineStats(
        num_running=len(running),
        num_waiting=max(0, len(open_requests) - len(running)),
        blocks_total=pool.num_blocks,
        blocks_free=free,
        blocks_kv=max(0, pool.num_blocks - free - blocks_adapters - blocks_cached),
        blocks_cached=blocks_cached,
        blocks_adapters=blocks_adapters,
        block_bytes=block_bytes,
        adapters_resident=len(resident),
        adapters_by_state=adapters.num_by_state(),
        resident_bytes={entry.name: entry.num_bytes or 0 for entry in resident},
        adapters_host=len(adapters.host),
        host_bytes=adapters.host.num_bytes,
        adapter_hits=dict(adapters.hits),
        adapter_read_seconds=adapters.reader.seconds.stats(),
        prefix_queried_tokens=adapters.prefixes.num_queried_tokens,
        prefix_hit_tokens=adapters.prefixes.num_hit_tokens,
        prefix_evictions=adapters.prefixes.num_evictions,
        step=step,
        adapter_loads=adapters.num_loads,
        adapter_evictions=adapters.num_evictions,
        preemptions=scheduler.num_preemptions,
        steps=counts.steps,
        prompt_tokens=counts.prompt_tokens,
        generated_tokens=counts.generated_tokens,
        finished=dict(counts.finished),
        merged_adapter=merger.merged_name if merger else None,
        adapter_merges=merger.num_merges if merger else 0,
        merged_steps=merger.num_steps if merger else 0,
        tenants=_tenants(scheduler, open_requests, running),
    )


def _tenants(
    scheduler: Scheduler, open_requests: Several[Sequence], running: Several[Sequence]
) -> tuple[TenantStats, ...]:
    in_flight = Counter(sequence.tenant for sequence in open_requests)
    computed = Counter(sequence.tenant for sequence in running)
    return scheduler.usage.stats(in_flight - computed, computed)


def recount(adapters: AdapterManager, pool: BlockPool) -> None:
    """With no request left, every block is free or holds rows of a resident adapter."""
    pool.audit()
    adapters.audit()
    adapters.prefixes.audit(())
    held = sum(len(entry.blocks) for entry in (*adapters.resident, *adapters.placing))
    held += adapters.prefixes.num_blocks
    assert held == pool.num_blocks - pool.num_free, "blocks without an owner"
    assert not any(entry.users for entry in adapters.resident), "a user without a request"
