"""Keeps the waiting requests: a queue for each tenant, and the order inside it."""

from collections import deque
from collections.abc import Callable, Iterator

from gossamer.serving.core.sequence import Sequence

OLDEST_EVERY = 8
"""One of this many admissions of a tenant goes to its oldest request, whatever its priority."""

Test = Callable[[Sequence], bool]


class TenantQueue:
    """Keeps the waiting requests of one tenant.

    A request with `k` older ones beside it is started after at most `start_bound(k)` admissions of
    its tenant, however many of a better priority, or of favoured adapters, come meanwhile.
    """

    def __init__(self) -> None:
        self._by_age: dict[Sequence, None] = {}
        self._by_priority: dict[int, dict[Sequence, None]] = {}
        self._since_oldest = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._by_age)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._by_age

    def add(self, sequence: Sequence) -> None:
        """Add a request as the newest."""
        self._by_age[sequence] = None
        self._by_priority.setdefault(sequence.priority, {})[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Remove a request, wherever it is."""
        del self._by_age[sequence]
        same = self._by_priority[sequence.priority]
        del same[sequence]
        if not same:
            del self._by_priority[sequence.priority]

    def admit(self, sequence: Sequence) -> None:
        """Remove what starts now."""
        is_oldest = next(iter(self._by_age)) is sequence
        self._since_oldest = 0 if is_oldest else self._since_oldest + 1
        self.remove(sequence)

    def in_order(self, *, newest_first: bool, favoured: Test | None = None) -> Iterator[Sequence]:
        """Iterate in the order of starting: priority (a low number first), then age.

        `favoured` ones go before others of their priority. With `newest_first` no turn is
        forced, since those who wait too long are refused then.
        """
        forced = None
        if self._since_oldest >= OLDEST_EVERY - 1 and not newest_first and self._by_age:
            forced = next(iter(self._by_age))
            yield forced
        for priority in sorted(self._by_priority):
            same = list(self._by_priority.get(priority, ()))
            if newest_first:
                same.reverse()
            if favoured is not None:
                # The sort is stable: by age among equals.
                same.sort(key=lambda s: not favoured(s))
            for sequence in same:
                if sequence is not forced:
                    yield sequence


def start_bound(num_older: int) -> int:
    """Return the admissions of a tenant within which a request behind `num_older` starts."""
    return (num_older + 1) * OLDEST_EVERY


class WaitingQueue:
    """Keeps all who wait: those put back after they had begun, then a queue for each tenant."""

    def __init__(self) -> None:
        self.begun: deque[Sequence] = deque()
        """Preempted; the one admitted first comes first."""
        self.tenants: dict[str, TenantQueue] = {}
        """The tenants that have requests waiting."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.begun
        for queue in self.tenants.values():
            yield from queue

    def __contains__(self, sequence: Sequence) -> bool:
        queue = self.tenants.get(sequence.tenant, ())
        return sequence in queue or sequence in self.begun

    def add(self, sequence: Sequence) -> None:
        """Add a new request."""
        self.tenants.setdefault(sequence.tenant, TenantQueue()).add(sequence)
        self._size += 1

    def put_back(self, sequence: Sequence) -> None:
        """Put a request that was running before all others."""
        self.begun.appendleft(sequence)
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        """Remove a request that ends without starting."""
        self._take_out(sequence, TenantQueue.remove)

    def admit(self, sequence: Sequence) -> None:
        """Remove a request that starts."""
        self._take_out(sequence, TenantQueue.admit)

    def _take_out(
        self, sequence: Sequence, take_out: Callable[[TenantQueue, Sequence], None]
    ) -> None:
        queue = self.tenants.get(sequence.tenant)
        if queue is None or sequence not in queue:
            self.begun.remove(sequence)
        else:
            take_out(queue, sequence)
            if not queue:
                del self.tenants[sequence.tenant]
        self._size -= 1
