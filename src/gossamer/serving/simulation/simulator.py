"""Replays a trace against the real scheduler, memory and adapters; computing is pretended."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gossamer.serving.core.messages import DEFAULT_TENANT, Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.loadtest.workload import Arrival
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import ScheduledChunk, SchedulerLimits
from gossamer.serving.simulation.disk import SimulatedDisk, SimulatedFolder, SimulatedLoader
from gossamer.serving.simulation.outcomes import Outcome
from gossamer.serving.simulation.step_model import StepModel
from gossamer.serving.store.host_cache import HostCache
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import AdapterNames
from gossamer.serving.store.reader import AdapterReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Pretends a server: how fast it computes, what fits, how fast it loads."""

    step: StepModel
    num_blocks: int
    block_tokens: int = 16
    block_bytes: float
    bytes_per_rank: float
    """The bytes of an adapter per unit of its rank."""
    base_bytes: int
    load_bytes_per_second: float
    max_batch_tokens: int = 512
    max_running: int = 64
    expected_new_tokens: int = 256
    adapter_cluster: int = 0


@dataclass(slots=True, kw_only=True)
class Replay:
    """Holds what a replay gave."""

    outcomes: list[Outcome] = field(default_factory=list)
    """In order of arrival."""
    steps: int = 0
    busy_seconds: float = 0.0
    """Spent computing."""
    adapters_in_steps: int = 0
    """Distinct adapters, summed over the steps."""
    longest_gap: float = 0.0
    """Most seconds between two tokens of a request."""
    adapter_loads: int = 0
    preemptions: int = 0


class Simulator:
    """Runs one replay. Time is a number here, so the same trace gives the same result."""

    def __init__(
        self,
        machine: Machine,
        ranks: list[int],
        *,
        promise: FirstTokenPolicy | None = None,
        limits_of: LimitsOf = unlimited,
    ) -> None:
        """`ranks[i]` is the rank of adapter i; 0 stands for the base model alone."""
        self.now = 0.0
        self._machine = machine
        self._ranks = ranks
        self._disk = SimulatedDisk(self._clock, machine.load_bytes_per_second)
        loader = SimulatedLoader(ranks, machine.bytes_per_rank, machine.block_bytes)
        names = AdapterNames(SimulatedFolder(ranks))
        pool = BlockPool(machine.num_blocks)
        self._memory = MemoryManager(
            pool,
            PrefixCache(pool, machine.block_tokens, enabled=False),
            Residency(pool, loader, _nothing, clock=self._clock),
            names.is_current,
            self._clock,
        )
        reader = AdapterReader(loader, self._disk, _nothing, machine.num_blocks, self._clock)
        self._adapters = AdapterManager(names, reader, HostCache(), self._memory, self._clock)
        limits = SchedulerLimits(
            block_tokens=machine.block_tokens,
            max_batch_tokens=machine.max_batch_tokens,
            max_running=machine.max_running,
            expected_new_tokens=machine.expected_new_tokens,
            adapter_cluster=machine.adapter_cluster,
            base_bytes=machine.base_bytes,
        )
        self.scheduler = Scheduler(
            self._memory,
            self._adapters,
            limits,
            promise=promise,
            limits_of=limits_of,
            clock=self._clock,
        )
        self._outcomes: dict[Sequence, Outcome] = {}
        self._last_token: dict[Sequence, float] = {}
        self._replay = Replay()

    def run(
        self, trace: Iterable[Arrival], tenant_of: Callable[[Arrival], str] | None = None
    ) -> Replay:
        """Replay all of `trace` to its end."""
        arrivals = deque(trace)
        while True:
            while arrivals and arrivals[0].time <= self.now:
                arrival = arrivals.popleft()
                self._arrive(arrival, tenant_of(arrival) if tenant_of else DEFAULT_TENANT)
            self._disk.end_due()
            self._adapters.collect_loads()
            for sequence, _ in self.scheduler.pop_refused():
                self._outcomes.pop(sequence).refused = True
            step = self.scheduler.plan()
            if step:
                self._compute(step)
            if step or self.scheduler.wants_step:
                continue
            events = [arrivals[0].time] if arrivals else []
            if self._disk.next_end is not None:
                events.append(self._disk.next_end)
            if not events:
                break
            self.now = max(self.now, min(events))
        assert not self._outcomes, "requests are left"
        self._memory.audit()
        self._replay.adapter_loads = self._memory.num_loads
        self._replay.preemptions = self.scheduler.num_preemptions
        return self._replay

    def _clock(self) -> float:
        return self.now

    def _arrive(self, arrival: Arrival, tenant: str) -> None:
        outcome = Outcome(arrived=arrival.time, prompt_tokens=arrival.prompt_tokens, tenant=tenant)
        self._replay.outcomes.append(outcome)
        rank = self._ranks[arrival.adapter]
        sequence = Sequence(
            request=Request(
                request_id=str(len(self._replay.outcomes)),
                prompt_token_ids=(0,) * arrival.prompt_tokens,
                adapter=str(arrival.adapter) if rank else None,
                sampling=SamplingParams(max_tokens=arrival.output_tokens),
                tenant=tenant,
            ),
            adapter=self._adapters.look_up(str(arrival.adapter)) if rank else None,
            max_new_tokens=arrival.output_tokens,
            token_ids=[0] * arrival.prompt_tokens,
            arrived=arrival.time,
        )
        self._outcomes[sequence] = outcome
        self.scheduler.add(sequence)

    def _compute(self, step: list[ScheduledChunk]) -> None:
        seconds = self._machine.step.seconds(step)
        self.now += seconds
        self._replay.steps += 1
        self._replay.busy_seconds += seconds
        self._replay.adapters_in_steps += len({part.sequence.adapter for part in step} - {None})
        due = [part.sequence for part in step if part.count == part.sequence.num_to_compute]
        self.scheduler.advance(step)
        self.scheduler.postprocess(step, seconds)
        for sequence in due:
            self._take_token(sequence)

    def _take_token(self, sequence: Sequence) -> None:
        outcome = self._outcomes[sequence]
        self.scheduler.record_token(sequence, 0)
        outcome.output_tokens += 1
        if outcome.first_token is None:
            outcome.first_token = self.now
        else:
            gap = self.now - self._last_token[sequence]
            self._replay.longest_gap = max(self._replay.longest_gap, gap)
        self._last_token[sequence] = self.now
        if sequence.num_left <= 0:
            outcome.finished = self.now
            self.scheduler.remove(sequence)
            del self._outcomes[sequence], self._last_token[sequence]


def _nothing() -> None:
    """No thread sleeps here that would have to be woken."""
