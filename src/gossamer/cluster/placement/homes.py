"""Says which replicas an adapter is at home on, so that each replica caches a part of them all.

Every adapter has an order of the replicas of its own (rendezvous hashing, Thaler and Ravishankar,
1998), which all routers compute alike without a word between them. Its first few are its homes;
one that is asked for often has more, which share its requests. A request goes home unless that
replica has clearly more to do than the replicas have on average (bounded loads, arXiv 1608.01350).
Integers only: the routers and `simulation` use the same code.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from gossamer.serving.core.adapter import Heat

MAX_ORDERS = 200_000
"""Adapters whose homes are remembered, so that they need not be hashed again."""

REMEMBERED = 16
"""The replicas of an adapter's order that are remembered: hardly any has more homes."""

MAX_WIDE = 256
"""Adapters with more homes than that, whose whole orders are remembered."""

NONE: Mapping[int, int] = MappingProxyType({})
"""No requests anywhere."""

MIN_PRUNED = 1024
"""With this many adapters counted, and whenever they have doubled since, cold ones are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeRules:
    """Says how many homes an adapter has, and how much busier than others a replica may be."""

    least: int = 2
    """Homes of an adapter that is hardly asked for."""
    share_per_home: float = 0.125
    """An adapter with this part of one replica's fair share of all requests gets a home more."""
    bound: float = 1.25
    """A replica takes a request while its load is at most this multiple of the mean,"""
    slack: int = 4
    """or at most this many requests above the mean, which counts where there are few."""
    pile: int = 8
    """A wanted adapter's requests are counted by this number on each home that shares them, and
    where there are fewest is taken first, whatever else it has to do: behind a flood of others'
    requests all replicas look alike, and an adapter's own would pile up on one of them."""


class Homes:
    """Orders the replicas for each request, best first; one for each router.

    A replica is known by what stays when it is replaced (its rank), so that its successor takes its
    adapters over. Used from one thread.
    """

    def __init__(
        self, rules: HomeRules | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules or HomeRules()
        self._clock = clock
        self._members: tuple[int, ...] = ()
        self._hashes: dict[int, Any] = {}
        self._orders: dict[str, tuple[int, ...]] = {}
        """The first `REMEMBERED` replicas in the order of each adapter."""
        self._whole_orders: dict[str, tuple[int, ...]] = {}
        """All replicas in the order of those that have more homes than that."""
        self._asked: dict[str, Heat] = {}
        self._all = Heat()
        self._turn = 0
        self._prune_at = MIN_PRUNED

    def set_members(self, members: Iterable[int]) -> None:
        """Know these replicas from now on; most adapters keep their homes."""
        wanted = tuple(sorted(set(members)))
        if wanted != self._members:
            self._members = wanted
            self._hashes = {each: blake2b(b"%d/" % each, digest_size=8) for each in wanted}
            self._orders.clear()
            self._whole_orders.clear()

    @property
    def num_counted(self) -> int:
        """Return how many adapters' requests are counted."""
        return len(self._asked)

    def homes(self, adapter: str) -> tuple[int, ...]:
        """Return the replicas that `adapter` is at home on now, the first one first."""
        count = self._rules.least + self._more_homes(adapter)
        return self._order(adapter, count)[:count]

    def at_home(self, member: int, asked: Mapping[str, float]) -> list[str]:
        """List the adapters whose requests come to `member` while no replica has more to do than
        others, in the order of `asked`.

        asked: how often each adapter is asked for, by which a wanted one has more homes.
        """
        total = sum(asked.values())
        found = []
        for adapter, count in asked.items():
            more = self._more_for(count / total) if total > 0 else 0
            if member in self._order(adapter, 1 + more)[: 1 + more]:
                found.append(adapter)
        return found

    def choose(
        self, adapter: str | None, loads: Mapping[int, int], own: Mapping[int, int] = NONE
    ) -> int:
        """Choose the replica for one more request for `adapter` (None: for the base model alone),
        and count the request.

        loads: the requests that each replica has now.
        own: those of them that are for this adapter.
        """
        return next(self.order(adapter, loads, own))

    def order(
        self, adapter: str | None, loads: Mapping[int, int], own: Mapping[int, int] = NONE
    ) -> Iterator[int]:
        """Count one more request and yield all replicas for it, best first: if one refuses it, the
        next is to be asked. Raises `ValueError` where there are no replicas."""
        if not self._members:
            raise ValueError("there are no replicas")
        if adapter is None:
            return iter(self._by_load(self._rotated(), loads))
        self._count(adapter)
        return self._from_home(adapter, loads, own)

    def _from_home(
        self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]
    ) -> Iterator[int]:
        bound = self._bound(loads)
        more = self._more_homes(adapter)
        order = self._order(adapter, self._rules.least + more)
        # Those that share a wanted adapter share its requests; a rare one has one of them.
        first = order[0]
        if more:
            pile = self._rules.pile
            first = min(
                order[: 1 + more],
                key=lambda each: (own.get(each, 0) // pile, loads.get(each, 0)),
            )
        if loads.get(first, 0) <= bound:
            yield first
        homes = [each for each in order[: self._rules.least + more] if each != first]
        best = [each for each in self._by_load(homes, loads) if loads.get(each, 0) <= bound]
        yield from best
        # Someone is at the mean or below it, so the walk finds one under the bound.
        taken = {*best, first} if loads.get(first, 0) <= bound else set(best)
        rest = [each for each in self._whole_order(adapter) if each not in taken]
        yield from (each for each in rest if loads.get(each, 0) <= bound)
        yield from self._by_load([each for each in rest if loads.get(each, 0) > bound], loads)

    def _bound(self, loads: Mapping[int, int]) -> float:
        mean = sum([loads.get(each, 0) for each in self._members]) / len(self._members)
        return max(self._rules.bound * mean, mean + self._rules.slack)

    def _by_load(self, members: Iterable[int], loads: Mapping[int, int]) -> list[int]:
        return sorted(members, key=lambda each: loads.get(each, 0))

    def _rotated(self) -> list[int]:
        """All replicas from another one on each time: of equally busy ones, each has its turn."""
        self._turn = (self._turn + 1) % len(self._members)
        return [*self._members[self._turn :], *self._members[: self._turn]]

    def _more_homes(self, adapter: str) -> int:
        """Count the homes that it has for being asked for often."""
        now = self._clock()
        asked, total = self._asked.get(adapter), self._all.count(now)
        return self._more_for(asked.count(now) / total if asked is not None and total > 0 else 0.0)

    def _more_for(self, share: float) -> int:
        return int(share * len(self._members) / self._rules.share_per_home)

    def _count(self, adapter: str) -> None:
        now = self._clock()
        self._all.touch(now)
        heat = self._asked.get(adapter)
        if heat is None:
            heat = self._asked[adapter] = Heat()
        heat.touch(now)
        if len(self._asked) > self._prune_at:
            # One request of two half-lives ago: too few for another home.
            kept = {name: each for name, each in self._asked.items() if each.count(now) > 0.25}
            self._asked, self._prune_at = kept, max(MIN_PRUNED, 2 * len(kept))

    def _order(self, adapter: str, count: int) -> tuple[int, ...]:
        """The beginning of the adapter's order: `count` replicas at least, if there are."""
        if count > REMEMBERED:
            return self._wide_order(adapter)
        known = self._orders.get(adapter)
        if known is None:
            scores = self._scores(adapter)
            known = tuple(heapq.nlargest(REMEMBERED, scores, key=scores.__getitem__))
            if len(self._orders) >= MAX_ORDERS:
                self._orders.clear()
            self._orders[adapter] = known
        return known

    def _wide_order(self, adapter: str) -> tuple[int, ...]:
        known = self._whole_orders.get(adapter)
        if known is None:
            known = tuple(self._whole_order(adapter))
            if len(self._whole_orders) >= MAX_WIDE:
                self._whole_orders.clear()
            self._whole_orders[adapter] = known
        return known

    def _whole_order(self, adapter: str) -> list[int]:
        scores = self._scores(adapter)
        return sorted(scores, key=scores.__getitem__, reverse=True)

    def _scores(self, adapter: str) -> dict[int, bytes]:
        name, scores = adapter.encode(), {}
        for each, prefix in self._hashes.items():
            state = prefix.copy()
            state.update(name)
            scores[each] = state.digest()
        return scores
