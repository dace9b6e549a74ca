"""Who runs next: decodes first, prefill in chunks, admission by memory. Pure Python, no tensors."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from gossamer.errors import GossamerError
from gossamer.serving.adapter_entry import AdapterState
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.admission import blocks_for
from gossamer.serving.blend import AnyAdapter
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.scheduling.accounts import Accounts
from gossamer.serving.scheduling.deadlines import Deadlines, FirstTokenPolicy
from gossamer.serving.scheduling.fairness import (
    VirtualCounters,
    load_charge,
    output_charge,
    prompt_charge,
)
from gossamer.serving.scheduling.forecast import Forecast, Load
from gossamer.serving.scheduling.never_fits import quota_refusal, refusal
from gossamer.serving.scheduling.prefetch import by_slack
from gossamer.serving.scheduling.room import Room
from gossamer.serving.scheduling.tenants import LimitsOf, unlimited
from gossamer.serving.scheduling.turns import in_turn
from gossamer.serving.scheduling.waiting import Test, WaitingQueue
from gossamer.serving.scheduling.walk import Walk
from gossamer.serving.sequence import Sequence

MAX_SKIPS = 64
"""A waiting request that so many later ones have overtaken, since there was no room for it, is
overtaken no more."""

LOAD_AHEAD = 8
"""The adapters of so many requests at the head of the queue are read ahead of admission, whatever
their size."""

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
    max_context: int | None = None
    """Positions that the model knows; an adapter's virtual tokens take some. None: no limit."""
    adapter_cluster: int = 0
    """From so many distinct adapters in the batch on, a tenant's requests for one of them go before
    its others; 0: never."""
    prefetch: int = 0
    """The adapters of so many requests at the head of the queue are copied into free blocks before
    their turn."""
    base_bytes: int = 0
    """Of the base model's weights; what an adapter's work is measured against."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's part in a step: compute `count` tokens from `num_computed` on."""

    sequence: Sequence
    count: int


class Scheduler:
    """Decides each step. Owns the waiting queue, the running set and the sequences' blocks."""

    def __init__(
        self,
        pool: BlockPool,
        adapters: AdapterStore,
        limits: SchedulerLimits,
        *,
        promise: FirstTokenPolicy | None = None,
        limits_of: LimitsOf = unlimited,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        promise = promise or FirstTokenPolicy()
        self._pool = pool
        self._adapters = adapters
        self._limits = limits
        self._limits_of = limits_of
        self._clock = clock
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        """In order of admission."""
        self.num_preemptions = 0
        self.counters = VirtualCounters(limits_of)
        self.accounts = Accounts(promise.slo)
        self.forecast = Forecast()
        self._deadlines = Deadlines(promise, self.forecast, clock)
        # What a block of a prefix is worth is the time to compute it again.
        adapters.prefixes.seconds_per_token = lambda: self.forecast.seconds_per_prompt_token
        self._step = 0
        self._met_misfit = False
        self._room: Room | None = None

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        if math.isnan(sequence.arrived):
            sequence.arrived = self._clock()
        self.waiting.add(sequence)
        if sequence.adapter is not None:
            self._adapters.hold(sequence.adapter)
            self._adapters.count(sequence.adapter)
        self.counters.arrive(sequence.tenant)
        self._deadlines.arrived(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it holds."""
        if sequence in self.running:
            self._release(sequence)
            if sequence.admitted is not None:
                self.forecast.record_residence(self._clock() - sequence.admitted)
            if sequence.adapter is not None:
                self._adapters.let_go(sequence.adapter)
        else:
            self._leave_queue(sequence, starts=False)

    def plan(self) -> list[Scheduled]:
        """The next step: at most `max_batch_tokens`, one for each decoding sequence first."""
        budget = self._limits.max_batch_tokens
        step: list[Scheduled] = []
        before = self.num_preemptions
        for sequence in in_turn(self.running, budget):
            if budget == 0:
                break
            if self.num_preemptions > before and sequence not in self.running:
                continue
            count = min(sequence.num_to_compute, budget)
            if self._grow(sequence, count):
                step.append(Scheduled(sequence, count))
                budget -= count
        if self.num_preemptions > before:
            step = [part for part in step if part.sequence in self.running]
        step += self._admit(budget)
        self._step += 1
        for part in step:
            self._account(part)
        return step

    def record_step(self, step: list[Scheduled], seconds: float) -> None:
        """Learn how long `step` took, before its tokens are taken in."""
        prompts = sum(part.count for part in step if not part.sequence.is_decoding)
        self.forecast.record_step(prompt_tokens=prompts, seconds=seconds)

    def computed(self, part: Scheduled) -> None:
        """The tokens of a step's part were computed; its next token is not taken in yet."""
        part.sequence.num_computed += part.count
        self._adapters.prefixes.computed(part.sequence)

    def record_token(self, sequence: Sequence) -> None:
        """`sequence` is about to get its next token."""
        if not sequence.num_generated:
            seconds = self._clock() - sequence.arrived
            self.accounts.first_token(sequence.tenant, seconds)

    def take_refused(self) -> list[tuple[Sequence, GossamerError]]:
        """Waiting sequences that can never run, or not in time, removed from the queue, each with
        the reason."""
        refused: list[tuple[Sequence, GossamerError]] = []
        for sequence in self.waiting:
            if sequence.judged_in == self._circumstances(sequence):
                continue
            limits = self._limits
            error = refusal(
                sequence, self._adapters, self._pool, limits.block_tokens, limits.max_context
            )
            error = error or quota_refusal(sequence, self._limits_of)
            sequence.judged_in = self._circumstances(sequence)
            if error is not None:
                refused.append((sequence, error))
        for sequence, _ in refused:
            self._leave_queue(sequence, starts=False)
        late = self._deadlines.hopeless(self.waiting, self._load)
        for sequence, _ in late:
            self._leave_queue(sequence, starts=False)
            self.accounts.refuse(sequence.tenant, "deadline")
        return [*refused, *late]

    # Admission.

    def _admit(self, budget: int) -> list[Scheduled]:
        step: list[Scheduled] = []
        overtaken: list[Sequence] = []
        self._room = None
        walk = Walk(self.waiting, self.counters, self._deadlines.newest_first, self._favoured)
        self._read_ahead(walk)
        for sequence in walk if self._has_room(budget) else ():
            if not self._has_room(budget) or len(overtaken) == MAX_MISFITS:
                break
            if _is_unread(sequence.adapter) or self._exceeds_quota(sequence):
                # It waits for the disk, or for its own tenant's requests, which those behind it do
                # not make slower.
                continue
            if self._can_admit(sequence):
                if sequence.adapter is not None and not self._adapters.bring(sequence.adapter):
                    # Its adapter is being copied, which those behind it do not make slower.
                    self._room = None
                    continue
                count = self._start(sequence, budget)
                step.append(Scheduled(sequence, count))
                budget -= count
                for earlier in overtaken:
                    earlier.num_skipped += 1
            elif sequence.num_skipped >= MAX_SKIPS:
                break
            else:
                overtaken.append(sequence)
                walk.misfit(sequence)
        self._met_misfit = bool(overtaken)
        self._prefetch(walk)
        self._adapters.drop_unneeded_rows()
        return step

    def _has_room(self, budget: int) -> bool:
        return budget > 0 and len(self.running) < self._limits.max_running

    @property
    def num_read_ahead(self) -> int:
        """Requests at the head of the queue whose adapters are read: those that could start now."""
        return max(LOAD_AHEAD, self._limits.max_running - len(self.running))

    def _read_ahead(self, walk: Walk) -> None:
        left = self._adapters.host.max_bytes
        for number, sequence in enumerate(islice(walk, self.num_read_ahead)):
            adapter = sequence.adapter
            if adapter is None or adapter.state is AdapterState.RESIDENT:
                continue
            # What is read and waited for stays in memory until it is placed.
            left -= adapter.file_bytes
            if left < 0 and number >= LOAD_AHEAD:
                break
            self._adapters.start_load(adapter)

    def _prefetch(self, walk: Walk) -> None:
        """Have adapters of those who wait copied into free blocks, the most urgent first."""
        if not self._limits.prefetch:
            return
        # A block for each running sequence stays free: the next ones that they grow by.
        floor = len(self.running)
        waiting = list(islice(walk, self._limits.prefetch))
        for adapter in by_slack(waiting, self._deadlines.slo, self._clock()):
            self._adapters.prefetch(adapter, floor)

    def _favoured(self) -> Test | None:
        """Clustering (S-LoRA, section 4.1): a test for adapters that are in the batch already."""
        cluster = self._limits.adapter_cluster
        present = {s.adapter for s in self.running if s.adapter is not None}
        if not cluster or len(present) < cluster:
            return None
        return lambda s: s.adapter is None or s.adapter in present

    def _exceeds_quota(self, sequence: Sequence) -> bool:
        """Whether its adapter would make its tenant use more memory than it may."""
        quota = self._limits_of(sequence.tenant).resident_bytes
        if quota is None or sequence.adapter is None:
            return False
        used = {s.adapter for s in self.running if s.adapter and s.tenant == sequence.tenant}
        return sum(a.num_bytes or 0 for a in used | {sequence.adapter}) > quota

    def _can_admit(self, sequence: Sequence) -> bool:
        if self._room is None:
            self._room = Room(
                self.running,
                self._pool,
                self._adapters,
                block_tokens=self._limits.block_tokens,
                expected_new_tokens=self._limits.expected_new_tokens,
            )
        return self._room.fits(sequence)

    def _start(self, sequence: Sequence, budget: int) -> int:
        adapter = sequence.adapter
        # Before anything is reclaimed: what it can share must not be.
        self._adapters.prefixes.start(sequence)
        if adapter is not None:
            if adapter.state is not AdapterState.RESIDENT:
                self.counters.charge(sequence.tenant, load_charge(adapter))
            self._adapters.acquire(adapter)
        self._leave_queue(sequence, starts=True)
        self.running.append(sequence)
        count = min(sequence.num_to_compute, budget)
        # The whole prompt's blocks at once: a prefill, once begun, is not stopped for memory.
        grown = self._grow(sequence, sequence.num_to_compute)
        assert grown, "admission promised the blocks"
        self._room = None
        return count

    def _leave_queue(self, sequence: Sequence, *, starts: bool) -> None:
        self.counters.depart(sequence.tenant)
        if not starts:
            self.waiting.remove(sequence)
            if sequence.adapter is not None:
                self._adapters.let_go(sequence.adapter)
            return
        self.waiting.admit(sequence)
        if sequence.admitted is None:
            sequence.admitted = self._clock()
            self._deadlines.started(sequence)
            self.counters.charge(sequence.tenant, prompt_charge(sequence, self._limits.base_bytes))
            self.accounts.of(sequence.tenant).prompt_tokens += sequence.num_prompt

    def _account(self, part: Scheduled) -> None:
        sequence = part.sequence
        sequence.last_step = self._step
        if part.count == sequence.num_to_compute:
            # A token comes of it.
            charge = output_charge(sequence.adapter, self._limits.base_bytes)
            self.counters.charge(sequence.tenant, charge)

    def _circumstances(self, sequence: Sequence) -> tuple[AdapterState | None, int]:
        state = sequence.adapter.state if sequence.adapter is not None else None
        return state, self._adapters.num_pinned_blocks

    def _load(self) -> Load:
        decoding = sum(s.is_decoding for s in self.running)
        is_full = self._met_misfit
        free = 0 if is_full else self._limits.max_running - len(self.running)
        return Load(
            prompt_tokens_left=sum(s.num_to_compute for s in self.running if not s.is_decoding),
            chunk=self._limits.max_batch_tokens - decoding,
            free_places=free,
            places=len(self.running) if is_full else self._limits.max_running,
        )

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
        self.waiting.put_back(sequence)
        self.counters.arrive(sequence.tenant)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._adapters.prefixes.release(sequence)
        if sequence.adapter is not None:
            self._adapters.release(sequence.adapter)

    def _blocks(self, num_tokens: int) -> int:
        return blocks_for(num_tokens, self._limits.block_tokens)


def _is_unread(adapter: AnyAdapter | None) -> bool:
    unread = (AdapterState.REGISTERED, AdapterState.LOADING, AdapterState.PLACING)
    return adapter is not None and adapter.state in unread


def adapters_of(step: list[Scheduled]) -> list[AnyAdapter]:
    """The distinct adapters of a step, in order of appearance."""
    found = {part.sequence.adapter: None for part in step if part.sequence.adapter is not None}
    return list(found)
