"""Owns all blocks: decides who gets some, what stays, and what goes when they run short."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import MemoryStats
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.eviction import Evictor
from gossamer.serving.memory.pins import Pins
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency


class MemoryManager:
    """Owns the pool, and the prefixes and adapters in it. Used by the engine's thread alone.

    What is not in use stays in its blocks until someone else needs them.
    """

    def __init__(
        self,
        pool: BlockPool,
        prefixes: PrefixCache,
        residency: Residency,
        is_current: Callable[[AdapterEntry], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_current` tells whether an adapter's name still means this version of it."""
        self._pool = pool
        self._prefixes = prefixes
        self._residency = residency
        self._evictor = Evictor(pool, residency, prefixes, is_current, clock)
        self._pins = Pins(pool.num_blocks, is_current)

    # Blocks.

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks of the pool."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Return the number of blocks that are empty now."""
        return self._pool.num_free

    def num_reclaimable(self, *, sparing: AnyAdapter | None = None) -> int:
        """Count the blocks of adapters and prefixes that are not in use, but for `sparing`."""
        return self._evictor.num_evictable(sparing.parts if sparing is not None else ())

    def reclaim(self, count: int, *, sparing: AnyAdapter | None = None) -> bool:
        """Evict what is idle, the least valuable first, until `count` blocks are free."""
        return self._evictor.evict(count, sparing.parts if sparing is not None else ())

    # Sequences.

    def num_shared_in_use(self, sequence: Sequence) -> int:
        """Count the blocks that `sequence` could use because another one holds them now."""
        return self._prefixes.num_hits_in_use(sequence)

    def start(self, sequence: Sequence) -> None:
        """Give a sequence that starts the blocks of its prompt that were computed before."""
        self._prefixes.start(sequence)

    def grow(self, sequence: Sequence, count: int) -> bool:
        """Give `sequence` `count` more blocks, at the cost of what is idle; False if it cannot."""
        if count > 0:
            if not self._evictor.evict(count):
                return False
            sequence.blocks += self._pool.take(count, sequence)
        return True

    def share(self, sequences: Iterable[Sequence]) -> None:
        """More of `sequences` was computed: let others use the blocks that are full now."""
        self._prefixes.computed(sequences)

    def release(self, sequence: Sequence) -> None:
        """Take all blocks of a sequence that runs no more; shared ones may be used again."""
        self._prefixes.release(sequence)

    def learn_seconds_per_token(self, seconds: float) -> None:
        """Learn what computing a token of a prompt takes, by which prefixes are valued."""
        self._prefixes.learn_seconds_per_token(seconds)

    # Adapters.

    @property
    def resident(self) -> list[AdapterEntry]:
        """List the adapters whose rows are in the pool."""
        return list(self._residency.resident)

    @property
    def placing(self) -> list[AdapterEntry]:
        """List the adapters whose rows are being copied or computed there."""
        return self._residency.placing

    @property
    def computing(self) -> list[AdapterEntry]:
        """List the adapters that the model is to compute into their blocks, in order."""
        return self._residency.computing

    @property
    def num_loads(self) -> int:
        """Return how often an adapter was placed in the pool."""
        return self._residency.num_loads

    @property
    def num_evictions(self) -> int:
        """Return how often an adapter was evicted."""
        return self._residency.num_evictions

    def fits(self, adapter: AnyAdapter) -> bool:
        """Tell whether `adapter` is resident, or read and there are blocks for it."""
        if adapter.state is AdapterState.RESIDENT:
            return True
        if adapter.state is not AdapterState.HOST:
            return False
        return adapter.blocks_to_load <= self.num_free + self.num_reclaimable(sparing=adapter)

    def takes_steps(self, entry: AdapterEntry) -> bool:
        """Tell whether bringing `entry`, which has been read, takes some steps."""
        return entry.state is AdapterState.HOST and self._residency.should_wait(entry)

    def place(self, entry: AdapterEntry) -> None:
        """Place `entry` now; ask `fits` first. Raises a `GossamerError` and refuses it."""
        self._make_room(entry)
        self._residency.place(entry)

    def start_copy(self, entry: AdapterEntry, spared: Collection[AdapterEntry] = ()) -> None:
        """Begin to copy `entry` in the background, or to compute it; ask `fits` first."""
        self._make_room(entry, spared)
        self._residency.start(entry)

    def prefetch(self, entry: AdapterEntry, floor: int) -> bool:
        """Begin to copy `entry`, if it was read and that leaves `floor` blocks free."""
        can_copy = entry.state is AdapterState.HOST and self._residency.can_copy(entry)
        if not can_copy or not self._pool.can_take((entry.num_blocks or 0) + floor):
            return False
        self._residency.start(entry)
        return True

    def collect_copies(self) -> list[AdapterEntry]:
        """Take over what has been copied since the last call: resident now, or refused."""
        return self._residency.collect()

    def end_computing(self, entry: AdapterEntry, error: Exception | None = None) -> None:
        """The model has computed all of `entry`, or could not."""
        self._residency.end_computing(entry, error)

    def stop_computing(self, entry: AdapterEntry) -> None:
        """Do without what was computed of `entry`."""
        self._residency.stop_computing(entry)

    def evict(self, entry: AdapterEntry) -> None:
        """Evict an adapter that is resident and not in use."""
        self._evictor.evict_adapter(entry)

    def forget(self, entry: AdapterEntry) -> None:
        """Keep nothing of an adapter that cannot be asked for any more and is not in use."""
        self._pins.set(entry, pinned=False)
        if entry.state is AdapterState.RESIDENT:
            self._evictor.evict_adapter(entry)
        if entry.digest is not None:
            self._prefixes.drop(entry.digest)

    # Pins.

    @property
    def num_pinned_blocks(self) -> int:
        """Return the blocks of all pinned adapters."""
        return self._pins.num_blocks

    @property
    def num_pin_changes(self) -> int:
        """Return how often pins have changed, and with them what fits beside them."""
        return self._pins.num_changes

    def num_pinned_beside(self, adapter: AnyAdapter) -> int:
        """Count the blocks of pinned adapters other than `adapter`."""
        return self._pins.beside(adapter)

    def check_pin(self, entry: AdapterEntry, *, instead_of: AdapterEntry | None = None) -> None:
        """Raise `CapacityError` if pinning `entry` leaves too little; see `Pins.check`."""
        self._pins.check(entry, instead_of=instead_of)

    def pin(self, entry: AdapterEntry, *, pinned: bool) -> None:
        """Keep a resident adapter in the pool, or no longer; see `Pins.set`."""
        self._pins.set(entry, pinned=pinned)

    def unpin(self, name: str) -> list[AdapterEntry]:
        """Pin no version of `name` any more; returns those that were."""
        return self._pins.release(name)

    def unpin_superseded(self) -> list[AdapterEntry]:
        """Pin no adapter any more whose name means other files now; returns those that were."""
        return self._pins.unpin_superseded()

    def pop_lost_pins(self) -> list[str]:
        """Return the names whose pinned version was superseded since the last call."""
        return self._pins.take_lost()

    # As a whole.

    def stats(self) -> MemoryStats:
        """Count who has which blocks. From any thread."""
        resident = self.resident
        return MemoryStats(
            num_blocks=self.num_blocks,
            num_free=self.num_free,
            num_cached=self._prefixes.num_idle,
            num_of_adapters=sum(len(entry.blocks) for entry in (*resident, *self.placing)),
            num_resident=len(resident),
            resident_bytes={entry.name: entry.num_bytes or 0 for entry in resident},
            num_loads=self.num_loads,
            num_evictions=self.num_evictions,
            prefix_queried_tokens=self._prefixes.num_queried_tokens,
            prefix_hit_tokens=self._prefixes.num_hit_tokens,
            prefix_evictions=self._prefixes.num_evictions,
        )

    def audit(self, running: Iterable[Sequence] = ()) -> None:
        """Recount: every block is free, or belongs to a sequence, a prefix or an adapter."""
        running = list(running)
        self._pool.audit()
        self._residency.audit()
        self._pins.audit(self.resident)
        self._prefixes.audit(running)
        held = sum(len(entry.blocks) for entry in (*self.resident, *self.placing))
        held += self._prefixes.num_blocks + self._prefixes.num_private(running)
        assert held == self.num_blocks - self.num_free, "blocks without an owner"
        users = Counter(part for sequence in running for part in _parts(sequence))
        assert all(e.users == users[e] for e in self.resident), "users without a request"

    def close(self) -> None:
        """Stop the copying thread."""
        self._residency.close()

    def _make_room(self, entry: AdapterEntry, spared: Collection[AdapterEntry] = ()) -> None:
        assert entry.num_blocks is not None
        freed = self._evictor.evict(entry.num_blocks, spared)
        assert freed, "it was not asked whether it fits"


def _parts(sequence: Sequence) -> tuple[AdapterEntry, ...]:
    return sequence.adapter.parts if sequence.adapter is not None else ()
