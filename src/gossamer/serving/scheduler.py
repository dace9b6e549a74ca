"""Who runs next: decodes first, prefill in chunks, admission by memory. Pure Python, no tensors."""

from collections import deque
from dataclasses import dataclass
from itertools import islice

from gossamer.errors import CapacityError, GossamerError
from gossamer.serving.adapter_entry import AdapterEntry, AdapterState
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.admission import blocks_for, peak_blocks
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.sequence import Sequence

MAX_SKIPS = 64
"""A waiting request that so many later ones have overtaken is overtaken no more."""

LOAD_AHEAD = 8
"""The adapters of so many requests at the head of the queue are read ahead of admission."""

MAX_MISFITS = 32
"""After so many waiting requests that do not fit, the rest of the queue is not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """What the scheduler must keep to."""

    block_tokens: int
    max_batch_tokens: int
    """Tokens of a step."""
    max_running: int
    """Sequences admitted at a time."""
    expected_new_tokens: int
    """A request is assumed to produce at most so many more tokens when its memory is judged."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's part in a step: compute `count` tokens from `num_computed` on."""

    sequence: Sequence
    count: int


class Scheduler:
    """Decides each step. Owns the waiting queue, the running set and the sequences' blocks."""

    def __init__(self, pool: BlockPool, adapters: AdapterStore, limits: SchedulerLimits) -> None:
        self._pool = pool
        self._adapters = adapters
        self._limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In order of admission."""
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it holds."""
        if sequence in self.running:
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def plan(self) -> list[Scheduled]:
        """The next step: at most `max_batch_tokens`, one for each decoding sequence first."""
        budget = self._limits.max_batch_tokens
        step: list[Scheduled] = []
        for sequence in sorted(self.running, key=lambda s: s.num_to_compute > 1):
            if sequence not in self.running or budget == 0:
                continue
            count = min(sequence.num_to_compute, budget)
            if self._grow(sequence, count):
                step.append(Scheduled(sequence, count))
                budget -= count
        step = [part for part in step if part.sequence in self.running]
        return step + self._admit(budget)

    def take_refused(self) -> list[tuple[Sequence, GossamerError]]:
        """Waiting sequences that can never run, removed from the queue, each with the reason."""
        refused = []
        for sequence in list(self.waiting):
            error = self._refusal(sequence)
            if error is not None:
                self.waiting.remove(sequence)
                refused.append((sequence, error))
        return refused

    def _refusal(self, sequence: Sequence) -> GossamerError | None:
        adapter = sequence.adapter
        if adapter is None:
            return None
        if adapter.state is AdapterState.REPLACED and not sequence.num_generated:
            # Nothing was said yet with the version that is lost: the present one will do.
            try:
                adapter = sequence.adapter = self._adapters.look_up(adapter.name)
            except GossamerError as error:
                return error
        if adapter.error is not None:
            return adapter.error
        if adapter.num_blocks is None:
            return None
        room = (self._pool.num_blocks - adapter.num_blocks) * self._limits.block_tokens
        if sequence.request.sampling.max_tokens is None and sequence.num_prompt < room:
            sequence.max_new_tokens = min(sequence.max_new_tokens, room - sequence.num_prompt)
        if sequence.num_prompt + sequence.max_new_tokens <= room:
            return None
        return CapacityError(
            f"beside adapter {adapter.name} the memory holds {room} tokens, and this request asks "
            f"for {sequence.num_prompt} + {sequence.max_new_tokens}; ask for fewer or serve with "
            "more --memory"
        )

    # Admission.

    def _admit(self, budget: int) -> list[Scheduled]:
        step: list[Scheduled] = []
        overtaken: list[Sequence] = []
        self._read_ahead()
        for sequence in list(self.waiting):
            is_full = len(self.running) >= self._limits.max_running
            if budget == 0 or is_full or len(overtaken) == MAX_MISFITS:
                break
            if _is_unread(sequence.adapter):
                # It waits for the disk, which those behind it do not make slower.
                continue
            if self._can_admit(sequence):
                count = self._start(sequence, budget)
                step.append(Scheduled(sequence, count))
                budget -= count
                for earlier in overtaken:
                    earlier.num_skipped += 1
            elif sequence.num_skipped >= MAX_SKIPS:
                break
            else:
                overtaken.append(sequence)
        self._adapters.drop_unneeded_rows({s.adapter for s in self.waiting if s.adapter})
        return step

    def _read_ahead(self) -> None:
        for sequence in islice(self.waiting, LOAD_AHEAD):
            if sequence.adapter is not None:
                self._adapters.start_load(sequence.adapter)

    def _can_admit(self, sequence: Sequence) -> bool:
        adapter = sequence.adapter
        if adapter is not None and not self._adapters.can_acquire(adapter):
            return False
        loads = adapter is not None and adapter.state is not AdapterState.RESIDENT
        new_adapter_blocks = (adapter.num_blocks or 0) if loads and adapter else 0
        free = self._pool.num_free + self._adapters.num_reclaimable(sparing=adapter)
        now = new_adapter_blocks + self._blocks(len(sequence.token_ids))
        if now > free:
            return False
        if not self.running:
            # Alone it fits: that was checked when it came.
            return True
        held = sum(len(other.blocks) for other in self.running)
        peak = peak_blocks(
            (self._expected(other) for other in [*self.running, sequence]),
            self._limits.block_tokens,
        )
        return new_adapter_blocks + peak <= free + held

    def _expected(self, sequence: Sequence) -> tuple[int, int]:
        to_come = min(sequence.num_left, self._limits.expected_new_tokens)
        return len(sequence.token_ids), to_come

    def _start(self, sequence: Sequence, budget: int) -> int:
        if sequence.adapter is not None:
            self._adapters.acquire(sequence.adapter)
        self.waiting.remove(sequence)
        self.running.append(sequence)
        count = min(sequence.num_to_compute, budget)
        # The whole prompt's blocks at once: a prefill, once begun, is not stopped for memory.
        grown = self._grow(sequence, sequence.num_to_compute)
        assert grown, "admission promised the blocks"
        return count

    # Memory of running sequences.

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """Give `sequence` blocks for `count` more tokens, at the cost of idle adapters first.

        Where that is not enough the youngest running sequences are put back into the queue to be
        computed again later; False if `sequence` itself was the youngest.
        """
        needed = self._blocks(sequence.num_computed + count) - len(sequence.blocks)
        while needed > 0 and not self._adapters.reclaim(needed):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        if needed > 0:
            sequence.blocks += self._pool.take(needed, sequence)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.num_computed = 0
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._pool.give(sequence.blocks, sequence)
        sequence.blocks = []
        if sequence.adapter is not None:
            self._adapters.release(sequence.adapter)

    def _blocks(self, num_tokens: int) -> int:
        return blocks_for(num_tokens, self._limits.block_tokens)


def _is_unread(adapter: AdapterEntry | None) -> bool:
    unread = (AdapterState.REGISTERED, AdapterState.LOADING)
    return adapter is not None and adapter.state in unread


def adapters_of(step: list[Scheduled]) -> list[AdapterEntry]:
    """The distinct adapters of a step, in order of appearance."""
    found = {part.sequence.adapter: None for part in step if part.sequence.adapter is not None}
    return list(found)
