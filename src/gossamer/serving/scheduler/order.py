"""In which order requests start, compute, and have their adapters read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from itertools import islice

from gossamer.serving.core.adapter import AdapterState, AnyAdapter
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.scheduler.admission import ResidentQuota
from gossamer.serving.scheduler.fairness import VirtualCounters
from gossamer.serving.scheduler.queue import Test, WaitingQueue
from gossamer.serving.store.manager import AdapterManager

MAX_REJECTED_OF_TENANT = 8
"""After so many requests of a tenant that do not fit, its others are passed over for those of
other tenants."""


class AdmissionOrder:
    """Those that had begun before they were put back first; then tenants by their counters.

    The consumer may take a request it was given out of the queue (it starts) or leave it there. As
    starting is charged, the next one is of whoever has the smallest counter then.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        counters: VirtualCounters,
        newest_first: Callable[[str], bool],
        favoured: Callable[[], Test | None],
    ) -> None:
        self._waiting = waiting
        self._counters = counters
        self._newest_first = newest_first
        self._favoured = favoured
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
                newest_first=self._newest_first(tenant), favoured=self._favoured()
            )
        return ways[tenant]


def step_order(running: Iterable[Sequence], budget: int) -> list[Sequence]:
    """`running` (in order of admission) in the order in which they take from the budget of tokens.

    Sequences that decode come first and take a token each; prompts share what is left, the oldest
    first. Where there are as many decodes as tokens, nothing would be left and the last ones would
    never come: all then take turns, whoever was computed longest ago first, so that a sequence is
    computed at least once in ceil(decodes / budget) + prompts steps.
    """
    ordered = sorted(running, key=lambda s: s.num_to_compute > 1)
    num_decodes = sum(s.num_to_compute <= 1 for s in ordered)
    if num_decodes < budget:
        return ordered
    return sorted(ordered, key=lambda s: s.last_step)


def prefetch_order(waiting: Iterable[Sequence], slo: float | None, now: float) -> list[AnyAdapter]:
    """The distinct adapters of `waiting`, least slack first; as they come without a promise.

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
"""The adapters of so many requests at the head of the queue are read ahead of admission, whatever
their size."""


def read_ahead(
    waiting: Iterable[Sequence], adapters: AdapterManager, quota: ResidentQuota, most: int
) -> None:
    """Have the adapters of the first `most` of `waiting` read in the background, as far as there is
    memory for them."""
    left = adapters.host.max_bytes
    for number, sequence in enumerate(islice(_in_nobodys_way(waiting, quota), most)):
        adapter = sequence.adapter
        if adapter is None or adapter.state is AdapterState.RESIDENT:
            continue
        # What is read and waited for stays in memory until it is placed.
        left -= adapter.file_bytes
        if left < 0 and number >= LOAD_AHEAD:
            break
        adapters.start_load(adapter)


def _in_nobodys_way(waiting: Iterable[Sequence], quota: ResidentQuota) -> Iterator[Sequence]:
    """Without those who wait for other requests of their tenant, and those behind many such: they
    would take the places of other tenants."""
    held_back: Counter[str] = Counter()
    for sequence in waiting:
        adapter = sequence.adapter
        is_known = adapter is not None and adapter.num_bytes is not None
        if is_known and quota.forbids(sequence):
            held_back[sequence.tenant] += 1
        elif held_back[sequence.tenant] < LOAD_AHEAD:
            yield sequence
