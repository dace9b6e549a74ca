"""Decides who runs next: decodes first, prefill in chunks, admission by memory; no tensors."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

from gossamer.errors import GossamerError
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.sequence import UNKNOWN, Sequence
from gossamer.serving.core.stats import MemoryStats, TenantStats
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.scheduler.admission import (
    MAX_SKIPS,
    AdmissionControl,
    blocks_for,
    blocks_to_grow,
    is_kept_free_for,
    is_unread,
)
from gossamer.serving.scheduler.deadlines import Deadlines, FirstTokenPolicy
from gossamer.serving.scheduler.fairness import (
    VirtualCounters,
    load_charge,
    output_charge,
    prompt_charge,
)
from gossamer.serving.scheduler.forecast import Forecast, Load, load_of
from gossamer.serving.scheduler.next_up import NextUp
from gossamer.serving.scheduler.order import (
    LOAD_AHEAD,
    AdmissionOrder,
    prefetch_order,
    read_ahead,
    step_order,
)
from gossamer.serving.scheduler.prefix_fills import PrefixFills, chunk_of_fill
from gossamer.serving.scheduler.progress import Progress
from gossamer.serving.scheduler.queue import WaitingQueue
from gossamer.serving.scheduler.step import ScheduledChunk, SchedulerLimits
from gossamer.serving.scheduler.usage import TenantUsage
from gossamer.serving.store.manager import AdapterManager

MAX_REJECTED = 32
"""After this many waiting requests that do not fit, the rest of the queue is not looked at."""


class Scheduler:
    """Decides each step. Owns the waiting queue, the running set and the sequences' blocks."""

    def __init__(
        self,
        memory: MemoryManager,
        adapters: AdapterManager,
        limits: SchedulerLimits,
        *,
        promise: FirstTokenPolicy | None = None,
        limits_of: LimitsOf = unlimited,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        promise = promise or FirstTokenPolicy()
        self.memory = memory
        self.adapters = adapters
        self._limits = limits
        self.max_running = limits.max_running
        self._clock = clock
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        """In order of admission."""
        self.num_preemptions = 0
        self.counters = VirtualCounters(limits_of)
        self.usage = TenantUsage(promise.slo)
        self.forecast = Forecast()
        self.admission = AdmissionControl(self.running, memory, adapters, limits, limits_of)
        self._fills = PrefixFills(memory, adapters)
        self._progress = Progress(self.running, memory, self._fills)
        self._next_up = NextUp(memory, self.waiting)
        self._deadlines = Deadlines(promise, self.forecast, clock)
        self.wants_step = False
        """Whether to go on though the last plan was empty: somebody is to be refused or started."""
        self._step = 0
        self._met_rejection = False

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        if math.isnan(sequence.arrived):
            sequence.arrived = self._clock()
        self.waiting.add(sequence)
        if sequence.adapter is not None:
            self.adapters.add_ref(sequence.adapter)
            self.adapters.count(sequence.adapter)
        self.counters.arrive(sequence.tenant)
        self._deadlines.arrived(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it holds; nothing if it is nowhere."""
        if sequence in self.running:
            self._release(sequence)
            if sequence.admitted is not None:
                self.forecast.record_residence(self._clock() - sequence.admitted)
            if sequence.adapter is not None:
                self.adapters.drop_ref(sequence.adapter)
        elif sequence in self.waiting:
            self._leave_queue(sequence)

    def plan(self) -> list[ScheduledChunk]:
        """Choose the next step: one token for each decoding sequence first, then prompts.

        A step may be in flight that was advanced: those that get their last token from it sit out.
        """
        budget = self._limits.max_batch_tokens
        step: list[ScheduledChunk] = []
        before = self.num_preemptions
        self.wants_step = False
        fill = self._fills.next()
        ending = self._progress.ending
        turns = [s for s in self.running if s not in ending] if ending else self.running
        order = step_order([fill, *turns] if fill is not None else turns, budget)
        if self.memory.num_free < len(order):
            # For all at once: each time costs a look at whatever is idle.
            self.memory.reclaim(blocks_to_grow(order, budget, self._limits.block_tokens))
        for sequence in order:
            if budget == 0:
                break
            if sequence is fill:
                count = chunk_of_fill(sequence.num_to_compute, budget)
            elif self.num_preemptions > before and sequence not in self.running:
                continue
            else:
                count = min(sequence.num_to_compute, budget)
                if not self._grow(sequence, count):
                    continue
            step.append(ScheduledChunk(sequence, count))
            budget -= count
        if self.num_preemptions > before:
            step = [p for p in step if p.sequence is fill or p.sequence in self.running]
        step += self._admit(budget)
        has_news = self.wants_step or self.num_preemptions > before or self.memory.computing
        self.wants_step = not step and bool(has_news)
        self._step += 1
        self._account(step)
        return step

    def record_step(self, step: list[ScheduledChunk], seconds: float) -> None:
        """Learn how long `step` took."""
        prompts = sum(part.count for part in step if not part.is_decode)
        self.forecast.record_step(prompt_tokens=prompts, seconds=seconds)
        # What a block of a prefix is worth is the time to compute it again.
        self.memory.learn_seconds_per_token(self.forecast.seconds_per_prompt_token)

    def advance(self, step: list[ScheduledChunk]) -> None:
        """Count the tokens of `step`, which is in flight, as computed; see `Progress.advance`."""
        self._progress.advance(step)

    def postprocess(self, step: list[ScheduledChunk], seconds: float | None = None) -> None:
        """Take in that `step`, which was advanced, was computed; its tokens are not there yet.

        What is to come is predicted from the `seconds` that it took, if they are told.
        """
        if seconds is not None:
            self.record_step(step, seconds)
        self._progress.postprocess(step)

    def failed(self, step: list[ScheduledChunk], error: Exception) -> list[Sequence]:
        """Take in that `step` could not be computed; returns the requests that are to be ended.

        The adapter of which it was to compute a prefix is refused.
        """
        return self._progress.failed(step, error)

    def record_token(self, sequence: Sequence, token: int) -> None:
        """Take in the next token of `sequence`, for which `advance` has kept the place."""
        assert sequence.token_ids[-1] == UNKNOWN
        sequence.token_ids[-1] = token
        if len(sequence.token_ids) == sequence.num_prompt + 1:
            seconds = self._clock() - sequence.arrived
            self.usage.first_token(sequence.tenant, seconds)

    def tenant_stats(self, open_requests: Iterable[Sequence]) -> tuple[TenantStats, ...]:
        """Tell what each tenant has got; `open_requests` wait or run. From any thread."""
        in_flight = Counter(sequence.tenant for sequence in open_requests)
        running = Counter(sequence.tenant for sequence in list(self.running))
        return self.usage.stats(in_flight - running, running)

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks of the pool."""
        return self.memory.num_blocks

    def memory_stats(self) -> MemoryStats:
        """Count who has which blocks. From any thread."""
        return self.memory.stats()

    def audit(self) -> None:
        """Recount who has which blocks, rows and users."""
        self.memory.audit(self.running)
        self.adapters.audit()

    def pop_refused(self) -> list[tuple[Sequence, GossamerError | None]]:
        """Remove the waiting sequences that can never run, or not in time, each with the reason.

        None: it was put back, and has as many tokens already as it can get; it asked for no number.
        """
        refused = self.admission.refusals(self.waiting)
        for sequence, _ in refused:
            self._leave_queue(sequence)
        late = self._deadlines.hopeless(self.waiting, self._load)
        for sequence, _ in late:
            self._leave_queue(sequence)
            self.usage.refuse(sequence.tenant, "deadline")
        return [*refused, *late]

    # Admission.

    def _admit(self, budget: int) -> list[ScheduledChunk]:
        if not self.waiting:
            self._met_rejection = False
            self._next_up.forget()
            self.adapters.drop_unneeded_rows()
            return []
        step: list[ScheduledChunk] = []
        overtaken: list[Sequence] = []
        self.admission.running_changed()
        walk = AdmissionOrder(
            self.waiting, self.running, self.counters, self._deadlines, self._limits
        )
        read_ahead(walk, self.adapters, self.admission, self.num_read_ahead)
        order = self._next_up.in_order(walk, nobody_runs=not self.running)
        for sequence in order if self._has_room(budget) else ():
            if not self._has_room(budget) or len(overtaken) == MAX_REJECTED:
                break
            if sequence in self._progress.ending:
                continue  # Put back just now, and about to end.
            if is_unread(sequence.adapter) or self.admission.exceeds_quota(sequence):
                # It waits for the disk, or for its own tenant's requests, which those behind it do
                # not make slower.
                if is_kept_free_for(sequence):
                    break
                continue
            if self.admission.fits(sequence):
                nobody_runs = not self.running
                if not self._next_up.may_start_copy(sequence, nobody_runs=nobody_runs):
                    continue
                if not self._start_copy(sequence):
                    # Its adapter is being copied, which those behind it do not make slower, or
                    # computed, in steps that it shares with them.
                    self._next_up.begun(sequence, nobody_runs=nobody_runs)
                    self.admission.memory_changed()
                    if is_kept_free_for(sequence):
                        break
                    continue
                count = self._start(sequence, budget)
                if not count:
                    continue
                step.append(ScheduledChunk(sequence, count))
                budget -= count
                for earlier in overtaken:
                    earlier.num_skipped += 1
            elif sequence.num_skipped >= MAX_SKIPS:
                break
            else:
                overtaken.append(sequence)
                walk.count_rejected(sequence)
        self._met_rejection = bool(overtaken)
        self._prefetch(walk)
        self.adapters.drop_unneeded_rows()
        return step

    def _has_room(self, budget: int) -> bool:
        return budget > 0 and len(self.running) < self._limits.max_running

    @property
    def num_read_ahead(self) -> int:
        """Return for how many requests adapters are read: those that could start now."""
        return max(LOAD_AHEAD, self._limits.max_running - len(self.running))

    def _prefetch(self, walk: AdmissionOrder) -> None:
        """Have adapters of those who wait copied into free blocks, the most urgent first."""
        if not self._limits.prefetch:
            return
        # A block for each running sequence stays free: the next ones that they grow by.
        floor = len(self.running)
        waiting = list(islice(walk, self._limits.prefetch))
        for adapter in prefetch_order(waiting, self._deadlines.slo, self._clock()):
            self.adapters.prefetch(adapter, floor)

    def _start_copy(self, sequence: Sequence) -> bool:
        """Whether its adapter is there, or is placed at once when it starts; else it is begun, at
        the cost of the tenant whose request came to need it first."""
        adapter = sequence.adapter
        if adapter is None:
            return True
        missing = [part for part in adapter.parts if part.state is AdapterState.HOST]
        is_near = self.adapters.start_copy(adapter)
        for part in missing:
            if part.state is AdapterState.PLACING:
                self.counters.charge(sequence.tenant, load_charge(part))
        return is_near

    def _start(self, sequence: Sequence, budget: int) -> int:
        """Let `sequence` run; returns how much of it to compute now.

        0: its adapter cannot be placed, and it waits to be refused for that.
        """
        parts = sequence.adapter.parts if sequence.adapter is not None else ()
        missing = [part for part in parts if part.state is not AdapterState.RESIDENT]
        if not self._take_what_it_shares(sequence):
            self.admission.running_changed()
            self.wants_step = True
            return 0
        # From here on it is in one place, and `remove` gives back all it has, whatever fails.
        self.waiting.admit(sequence)
        self.running.append(sequence)
        self.counters.depart(sequence.tenant)
        self.admission.running_changed()
        for part in missing:
            self.counters.charge(sequence.tenant, load_charge(part))
        sequence.token_charge = output_charge(sequence.adapter, self._limits.base_bytes)
        if sequence.admitted is None:
            sequence.admitted = self._clock()
            self._deadlines.started(sequence)
            self.counters.charge(sequence.tenant, prompt_charge(sequence, self._limits.base_bytes))
            self.usage.of(sequence.tenant).prompt_tokens += sequence.num_prompt
        count = min(sequence.num_to_compute, budget)
        # The whole prompt's blocks at once: a prefill, once begun, is not stopped for memory.
        grown = self._grow(sequence, sequence.num_to_compute)
        assert grown, "admission promised the blocks"
        return count

    def _take_what_it_shares(self, sequence: Sequence) -> bool:
        """Blocks of its prompt's begin, and its adapter's rows; False, and neither, if these cannot
        be placed."""
        # Before anything is reclaimed: what it can share must not be.
        self.memory.start(sequence)
        if sequence.adapter is None:
            return True
        try:
            self.adapters.acquire(sequence.adapter)
        except GossamerError:
            self.memory.release(sequence)
            sequence.num_computed = 0
            return False
        return True

    def _leave_queue(self, sequence: Sequence) -> None:
        """One that ends without starting."""
        self.waiting.remove(sequence)
        self.counters.depart(sequence.tenant)
        if sequence.adapter is not None:
            self.adapters.drop_ref(sequence.adapter)

    def _account(self, step: list[ScheduledChunk]) -> None:
        """Note who is computed, and charge each tenant for the tokens that come of it."""
        charges: dict[str, float] = {}
        for part in step:
            sequence = part.sequence
            sequence.last_step = self._step
            if part.is_due:
                tenant = sequence.tenant
                charges[tenant] = charges.get(tenant, 0.0) + sequence.token_charge
        for tenant, charge in charges.items():
            self.counters.charge(tenant, charge)

    def _load(self) -> Load:
        return load_of(
            self.running, self._limits, self._fills.num_left, is_full=self._met_rejection
        )

    # Memory of running sequences.

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """Give `sequence` blocks for `count` more tokens, at the cost of idle adapters first.

        Where that is not enough the youngest running sequences are put back into the queue to be
        computed again later; False if `sequence` itself was the youngest.
        """
        needed = blocks_for(sequence.num_computed + count, self._limits.block_tokens)
        missing = needed - len(sequence.blocks)
        while missing > 0 and not self.memory.grow(sequence, missing):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.num_computed = 0
        self.waiting.put_back(sequence)
        self.counters.arrive(sequence.tenant)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.memory.release(sequence)
        if sequence.adapter is not None:
            self.adapters.release(sequence.adapter)
