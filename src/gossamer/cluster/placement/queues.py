"""Which waiting request a replica that is only pretended starts next."""

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gossamer.serving.scheduler.fairness import VirtualCounters


@dataclass(slots=True)
class SimulatedCall:
    """A request that is only pretended, and what became of it."""

    adapter: int
    tenant: str
    arrived: float
    work: float
    """Seconds of its answer with nothing beside it."""
    replica: int = -1
    """Where it was sent."""
    place: str = ""
    """Where its adapter was when it came."""
    first: bool = False
    """Whether it was the first of all for its adapter."""
    started: float = 0.0
    is_held: bool = False
    """Whether its adapter is being loaded, or kept, for it."""


class FirstCome:
    """Starts requests in the order in which they came."""

    def __init__(self) -> None:
        self._calls: deque[SimulatedCall] = deque()

    def add(self, call: SimulatedCall) -> None:
        """Let `call` wait."""
        self._calls.append(call)

    def first(self, count: int) -> Iterator[SimulatedCall]:
        """Yield those that go next, at most `count`; none may be added or started meanwhile."""
        return itertools.islice(self._calls, count)

    def start(self, call: SimulatedCall) -> None:
        """Let `call` wait no more."""
        self._calls.remove(call)


class LeastServed:
    """Starts a request of the tenant that this replica has served least, as the scheduler does.

    It knows nothing of what other replicas have done for a tenant.
    """

    def __init__(self) -> None:
        self._counters = VirtualCounters()
        self._calls: dict[str, deque[SimulatedCall]] = {}

    def add(self, call: SimulatedCall) -> None:
        """Let `call` wait."""
        self._counters.arrive(call.tenant)
        self._calls.setdefault(call.tenant, deque()).append(call)

    def first(self, count: int) -> Iterator[SimulatedCall]:
        """Yield those that go next if all of them are started, at most `count`."""
        turns = [
            (self._counters.of(tenant), number, tenant, 0)
            for number, tenant in enumerate(self._calls)
        ]
        heapq.heapify(turns)
        while turns and count > 0:
            counter, number, tenant, place = heapq.heappop(turns)
            call = self._calls[tenant][place]
            if place + 1 < len(self._calls[tenant]):
                heapq.heappush(turns, (counter + call.work, number, tenant, place + 1))
            count -= 1
            yield call

    def start(self, call: SimulatedCall) -> None:
        """Let `call` wait no more, and charge its tenant for it."""
        calls = self._calls[call.tenant]
        calls.remove(call)
        if not calls:
            del self._calls[call.tenant]
        self._counters.depart(call.tenant)
        self._counters.charge(call.tenant, call.work)
