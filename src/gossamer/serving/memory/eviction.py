"""Chooses which idle memory goes when blocks run short: the least valuable first."""

from collections.abc import Callable, Collection

from gossamer.serving.core.adapter import AdapterEntry, value
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency


class Evictor:
    """Weighs idle adapters and idle blocks of prefixes against each other.

    In order: blocks of prefixes whose adapter is not resident; adapters that cannot be asked for
    any more; then whatever saves the least time per block (`value`), adapters that a waiting
    request wants last. What is used or pinned stays.
    """

    def __init__(
        self,
        pool: BlockPool,
        residency: Residency,
        prefixes: PrefixCache,
        is_current: Callable[[AdapterEntry], bool],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._residency = residency
        self._prefixes = prefixes
        self._is_current = is_current
        self._clock = clock

    def num_evictable(self, spared: Collection[AdapterEntry] = ()) -> int:
        """Count the blocks that `evict` could free."""
        adapters = sum(len(entry.blocks) for entry in self._idle(spared))
        return adapters + self._prefixes.num_idle

    def evict(self, count: int, spared: Collection[AdapterEntry] = ()) -> bool:
        """Free idle blocks until the pool has `count`; False if that cannot be."""
        if self._pool.can_take(count):
            return True
        now = self._clock()
        ranked = sorted((self._rank(entry, now), id(entry), entry) for entry in self._idle(spared))
        ranked.reverse()
        while not self._pool.can_take(count):
            block = self._prefixes.least_value(now)
            if block is None and not ranked:
                return False
            if block is not None and (not ranked or (1, block) <= ranked[-1][0][:2]):
                self._prefixes.evict_one()
            else:
                self.evict_adapter(ranked.pop()[2])
        return True

    def evict_adapter(self, entry: AdapterEntry) -> None:
        """Evict an idle adapter; its prefixes are worth little until it comes back."""
        self._residency.evict(entry)
        if entry.digest is not None:
            self._prefixes.orphan(entry.digest)

    def _idle(self, spared: Collection[AdapterEntry]) -> list[AdapterEntry]:
        return [
            entry
            for entry in self._residency.resident
            if not entry.users and not entry.pinned and entry not in spared
        ]

    def _rank(self, entry: AdapterEntry, now: float) -> tuple[int, float, int]:
        """What goes first ranks low: class, value, last use."""
        if not self._is_current(entry) and not entry.requests:
            return 0, 0.0, entry.last_used
        worth = value(entry.heat.chance(now), entry.seconds_to_return, len(entry.blocks))
        return 2 if entry.requests else 1, worth, entry.last_used
