"""Counts the figures of a running engine on its thread, and puts them together for any."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Several

from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import (
    AdapterStats,
    EngineStats,
    GrammarStats,
    MergeStats,
    StepFigures,
)
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import ScheduledChunk, adapters_of


class EngineFigures:
    """Counts steps, tokens and final events since the start."""

    def __init__(self) -> None:
        self._step = StepFigures()
        self._num_steps = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._finished: Counter[str] = Counter(stop=0, length=0, cancelled=0, failed=0)

    def observe_step(
        self, chunks: list[ScheduledChunk], moments: tuple[float, ...], num_chosen: int
    ) -> None:
        """Count a step that was computed.

        `moments`: when it was begun, its batch built, its logits computed, its tokens chosen, of
        which `num_chosen` were taken.
        """
        self._step.observe(adapters_of(chunks), moments)
        self._num_steps += 1
        self._generated_tokens += num_chosen
        for chunk in chunks:
            if not chunk.is_decode and chunk.sequence.prefix_of is None:
                self._prompt_tokens += chunk.count

    def observe_end(self, reason: str) -> None:
        """Count a final event."""
        self._finished[reason] += 1

    def stats(
        self,
        scheduler: Scheduler,
        adapters: AdapterStats,
        merges: MergeStats,
        grammars: GrammarStats,
        open_requests: Several[Sequence],
        block_bytes: int,
    ) -> EngineStats:
        """See `EngineInterface.stats`; `open_requests` have not had their final event."""
        memory = scheduler.memory_stats()
        num_running = len(scheduler.running)
        running = {id(sequence) for sequence in list(scheduler.running)}
        not_kv = memory.num_free + memory.num_of_adapters + memory.num_cached
        return EngineStats(
            num_running=num_running,
            num_waiting=max(0, len(open_requests) - num_running),
            max_running=scheduler.max_running,
            running_adapters=_names(each for each in open_requests if id(each) in running),
            waiting_adapters=_names(each for each in open_requests if id(each) not in running),
            blocks_total=memory.num_blocks,
            blocks_free=memory.num_free,
            blocks_kv=max(0, memory.num_blocks - not_kv),
            blocks_cached=memory.num_cached,
            blocks_adapters=memory.num_of_adapters,
            block_bytes=block_bytes,
            adapters_resident=memory.num_resident,
            adapters_by_state=adapters.by_state,
            resident_bytes=memory.resident_bytes,
            adapters_host=adapters.num_host,
            host_bytes=adapters.host_bytes,
            adapter_hits=adapters.hits,
            adapter_read_seconds=adapters.read_seconds,
            prefix_queried_tokens=memory.prefix_queried_tokens,
            prefix_hit_tokens=memory.prefix_hit_tokens,
            prefix_evictions=memory.prefix_evictions,
            step=self._step.stats(),
            adapter_loads=memory.num_loads,
            adapter_evictions=memory.num_evictions,
            preemptions=scheduler.num_preemptions,
            steps=self._num_steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            finished=dict(self._finished),
            merged_adapter=merges.merged_adapter,
            adapter_merges=merges.adapter_merges,
            merged_steps=merges.merged_steps,
            grammars=grammars,
            tenants=scheduler.tenant_stats(open_requests),
        )


def _names(sequences: Iterable[Sequence]) -> frozenset[str]:
    """The adapters that these use; of a mixture, all its parts."""
    adapters = {sequence.adapter for sequence in sequences if sequence.adapter is not None}
    return frozenset(part.name for adapter in adapters for part in adapter.parts)
