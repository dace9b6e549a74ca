"""Orders requests: which start, compute, and have their adapters read first."""

from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from heapq import heapify, heappop, heapreplace
from itertools import islice

from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.scheduler.admission import AdmissionControl
from gossamer.serving.scheduler.deadlines import Deadlines
from gossamer.serving.scheduler.fairness import VirtualCounters
from gossamer.serving.scheduler.queue import Test, WaitingQueue
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.store.manager import AdapterManager

MAX_REJECTED_OF_TENANT = 8
"""After this many requests of a tenant that do not fit, its others are passed over for those of
other tenants."""


class AdmissionOrder:
    """Iterates over those put back after they had begun, then over tenants by their counters.

    The consumer may take a request it was given out of the queue (it starts) or leave it there. As
    starting is charged, the next one is of the tenant with the smallest counter then.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        running: List[Sequence],
        counters: VirtualCounters,
        deadlines: Deadlines,
        limits: SchedulerLimits,
    ) -> None:
        self._waiting = waiting
        self._running = running
        self._counters = counters
        self._deadlines = deadlines
        self._cluster = limits.adapter_cluster
        self._rejected: dict[str, int] = {}

    def count_rejected(self, sequence: Sequence) -> None:
        """Count one of its tenant that does not fit now."""
        self._rejected[sequence.tenant] = self._rejected.get(sequence.tenant, 0) + 1

    def __iter__(self) -> Iterator[Sequence]:
        yield from list(self._waiting.begun)
        tenants = list(self._waiting.tenants)
        # The number keeps equal tenants in a fixed order.
        heap = [(self._counters.of(tenant), n, tenant) for n, tenant in enumerate(tenants)]
        heapify(heap)
        ways: dict[str, Iterator[Sequence]] = {}
        seen: set[Sequence] = set()
        while heap:
            _, number, tenant = heap[0]
            way = self._way(ways, tenant, is_alone=len(heap) == 1)
            sequence = next((s for s in way if s not in seen), None)
            if sequence is None:
                heappop(heap)
                continue
            seen.add(sequence)
            yield sequence
            queue = self._waiting.tenants.get(tenant)
            if queue is None or sequence not in queue:
                ways.pop(tenant, None)
                heapreplace(heap, (self._counters.of(tenant), number, tenant))

    def _way(
        self, ways: dict[str, Iterator[Sequence]], tenant: str, *, is_alone: bool
    ) -> Iterator[Sequence]:
        queue = self._waiting.tenants.get(tenant)
        if queue is None:
            return iter(())
        if not is_alone and self._rejected.get(tenant, 0) >= MAX_REJECTED_OF_TENANT:
            return iter(())
        if tenant not in ways:
            ways[tenant] = queue.in_order(
                newest_first=self._deadlines.newest_first(tenant),
                favoured=_favoured(self._running, self._cluster),
            )
        return ways[tenant]


def _favoured(running: Iterable[Sequence], cluster: int) -> Test | None:
    """Return the test that adapters pass which are in the batch already, if they go first.

    That is clustering (S-LoRA, section 4.1), from `cluster` distinct adapters on; 0: never.
    """
    present = {s.adapter for s in running if s.adapter is not None}
    if not cluster or len(present) < cluster:
        return None
    return lambda s: s.adapter is None or s.adapter in present


def step_order(running: List[Sequence], budget: int) -> list[Sequence]:
    """Order `running`, given as admitted, as they take from the budget of tokens.

    Sequences that decode come first and take a token each; prompts share what is left, the oldest
    first. Where there are as many decodes as tokens, nothing would be left and the last ones would
    never come: all then take turns, the one computed longest ago first, so that a sequence is
    computed at least once in ceil(decodes / budget) + prompts steps.
    """
    decodes: list[Sequence] = []
    prompts: list[Sequence] = []
    for sequence in running:
        (prompts if sequence.num_to_compute > 1 else decodes).append(sequence)
    ordered = decodes + prompts
    if len(decodes) < budget:
        return ordered
    return sorted(ordered, key=lambda s: s.last_step)


def prefetch_order(waiting: Iterable[Sequence], slo: float | None, now: float) -> list[AnyAdapter]:
    """List the adapters of `waiting`, least slack first; as they come without a promise.

    Slack: seconds left of the promised `slo` to the first token, less those that copying takes.
    """
    slack: dict[AnyAdapter, float] = {}
    for sequence in waiting:
        if sequence.adapter is None or sequence.adapter in slack:
            continue
        copying = sum(part.place_seconds for part in sequence.adapter.parts)
        slack[sequence.adapter] = sequence.arrived + slo - now - copying if slo else 0.0
    return sorted(slack, key=slack.__getitem__)


LOAD_AHEAD = 8
"""The adapters of this many requests at the head of the queue are read ahead of admission, whatever
their size."""


def read_ahead(
    waiting: Iterable[Sequence], adapters: AdapterManager, admission: AdmissionControl, most: int
) -> None:
    """Have the adapters of the first `most` of `waiting` read in the background, as far as there is
    memory for them."""
    left = adapters.max_host_bytes
    for number, sequence in enumerate(islice(_in_nobodys_way(waiting, admission), most)):
        adapter = sequence.adapter
        if adapter is None or adapter.state is AdapterState.RESIDENT:
            continue
        # What is read and waited for stays in memory until it is placed.
        left -= adapter.file_bytes
        if left < 0 and number >= LOAD_AHEAD:
            break
        adapters.start_load(adapter)


def _in_nobodys_way(waiting: Iterable[Sequence], admission: AdmissionControl) -> Iterator[Sequence]:
    """Without those who wait for other requests of their tenant, and those behind many such: they
    would take the places of other tenants."""
    held_back: Counter[str] = Counter()
    for sequence in waiting:
        adapter = sequence.adapter
        is_known = adapter is not None and adapter.num_bytes is not None
        if is_known and admission.exceeds_quota(sequence):
            held_back[sequence.tenant] += 1
        elif held_back[sequence.tenant] < LOAD_AHEAD:
            yield sequence
