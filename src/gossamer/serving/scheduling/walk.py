"""A walk over the waiting requests in the order in which they should start."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heapreplace

from gossamer.serving.scheduling.fairness import VirtualCounters
from gossamer.serving.scheduling.waiting import Test, WaitingQueue
from gossamer.serving.sequence import Sequence

MAX_MISFITS_OF_TENANT = 8
"""After so many requests of a tenant that do not fit, its others are passed over for those of
other tenants."""


class Walk:
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
        self._misfits: dict[str, int] = {}

    def misfit(self, sequence: Sequence) -> None:
        """Count one of its tenant that does not fit now."""
        self._misfits[sequence.tenant] = self._misfits.get(sequence.tenant, 0) + 1

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
        if not is_alone and self._misfits.get(tenant, 0) >= MAX_MISFITS_OF_TENANT:
            return iter(())
        if tenant not in ways:
            ways[tenant] = queue.in_order(
                newest_first=self._newest_first(tenant), favoured=self._favoured()
            )
        return ways[tenant]
