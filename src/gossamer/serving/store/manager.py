"""Adapters between disk and pool: read in the background, placed in blocks, evicted when idle.

All methods run on the engine's thread but `look_up`, `prefetch_read` and `statuses`, which any
thread may call.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor

from gossamer.errors import GossamerError, UnknownModelError
from gossamer.serving.core.adapter import AdapterEntry, AdapterState, AnyAdapter, Blend
from gossamer.serving.core.adapter_faults import too_slow
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.stats import AdapterStatus, state_of, status_of, status_of_blend
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.eviction import Evictor
from gossamer.serving.memory.host_cache import HostCache
from gossamer.serving.memory.pins import Pins
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency
from gossamer.serving.store.names import AdapterNames, Folder
from gossamer.serving.store.reader import AdapterReader, Loaded, Loader

__all__ = ["AdapterManager", "Loaded", "Loader"]


class AdapterManager:
    """All adapters that can be named and where each of them is."""

    def __init__(
        self,
        folder: Folder,
        pool: BlockPool,
        loader: Loader,
        wake: Callable[[], None],
        *,
        threads: Executor | None = None,
        copies: Executor | None = None,
        at_once_bytes: int = 0,
        host_bytes: int = 0,
        prefixes: PrefixCache | None = None,
        read_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wake` is called on another thread whenever an adapter has been read or copied.

        `threads` is where adapters are read, a thread of its own unless given; `copies` where they
        are copied into the pool, the engine's unless given and for `at_once_bytes` between two
        steps. `host_bytes` bounds the host cache. A reading that takes longer than `read_seconds`
        is given up.
        """
        self.names = AdapterNames(folder)
        self.prefixes = prefixes or PrefixCache(pool, 1, enabled=False)
        self.host = HostCache(host_bytes)
        self._pool = pool
        self._threads = threads or DaemonThreads(
            "gossamer-adapters", limit_seconds=read_seconds, late=too_slow
        )
        self._copies = copies
        self._clock = clock
        self.reader = AdapterReader(
            loader, self._threads, wake, pool.num_blocks, clock, early_bytes=host_bytes // 4
        )
        self._residency = Residency(pool, loader, wake, copies, clock, at_once_bytes)
        self._evictor = Evictor(pool, self._residency, self.prefixes, self.names.is_current, clock)
        self._uses = 0
        self._draining: dict[AdapterEntry, list[Callable[[], None]]] = {}
        self.hits: Counter[str] = Counter(resident=0, host=0, disk=0)
        """Requests by where their adapter was when they came."""
        self.pins = Pins(pool.num_blocks, self.names.is_current)

    # From any thread.

    def look_up(self, name: str) -> AnyAdapter:
        """See `AdapterNames.look_up`."""
        return self.names.look_up(name)

    def prefetch_read(self, adapter: AnyAdapter) -> None:
        """Begin to read `adapter` for a request that is on its way to the engine's thread."""
        for entry in adapter.parts:
            self.reader.prefetch_read(entry)

    def statuses(self) -> list[AdapterStatus]:
        """All adapters that can be named now, and those that are on their way out."""
        leaving = [status_of(entry) for entry in list(self._draining)]
        return [*map(status_of, self.names.all()), *leaving]

    def status(self, name: str) -> AdapterStatus:
        """What `name` means now, which may be a mixture, or what is on its way out under it.

        Raises as `look_up`.
        """
        try:
            found = self.look_up(name)
        except UnknownModelError:
            leaving = [entry for entry in list(self._draining) if entry.name == name]
            if not leaving:
                raise
            return status_of(leaving[0])
        return status_of_blend(found, name) if isinstance(found, Blend) else status_of(found)

    def num_by_state(self) -> dict[str, int]:
        """How many adapters are in each state; files of none are looked at."""
        found = Counter(state_of(entry) for entry in (*self.names.known(), *list(self._draining)))
        others = len(self.names.names()) + len(self._draining) - found.total()
        found["registered"] += max(0, others)
        return dict(found)

    # Requests.

    def add_ref(self, adapter: AnyAdapter) -> None:
        """A request for `adapter` was accepted."""
        for entry in adapter.parts:
            entry.requests += 1
            self.reader.adopt(entry)

    def count(self, adapter: AnyAdapter) -> None:
        """A new request, not counted before, names `adapter`."""
        for entry in adapter.parts:
            entry.hits += 1
            entry.used_at = time.time()
            is_resident = entry.state is AdapterState.RESIDENT
            is_near = entry.state in (AdapterState.HOST, AdapterState.PLACING)
            self.hits["resident" if is_resident else "host" if is_near else "disk"] += 1

    def drop_ref(self, adapter: AnyAdapter) -> None:
        """A request for `adapter` has ended.

        One that was unloaded, or replaced by other files, is removed with its last request.
        """
        for entry in adapter.parts:
            assert entry.requests > 0
            entry.requests -= 1
            self._remove_if_done(entry)

    def swap_ref(self, former: AnyAdapter, adapter: AnyAdapter) -> AnyAdapter:
        """A request for `former` takes `adapter` instead; returns it."""
        self.add_ref(adapter)
        self.drop_ref(former)
        return adapter

    # Loading.

    def start_load(self, adapter: AnyAdapter) -> None:
        """Have `adapter` read in the background, unless that is done or under way."""
        for entry in adapter.parts:
            self.reader.start(entry)
            if entry.state is AdapterState.UNREADABLE:
                self.names.forget(entry)

    def collect_loads(self) -> None:
        """Take over what has been read and copied since the last call."""
        for entry in self.reader.collect():
            if entry.state is AdapterState.HOST:
                self.host.put(entry)
            elif entry.state in (AdapterState.REPLACED, AdapterState.UNREADABLE):
                self.names.forget(entry)
            self._remove_if_done(entry)
        for entry in self._residency.collect():
            self._placing_ended(entry)
        for entry in self.pins.unpin_superseded():
            self._remove_if_done(entry)

    def drop_unneeded_rows(self) -> None:
        """Keep the host cache within its bound; rows that a waiting request needs stay."""
        self.host.trim()

    # Residency.

    def can_acquire(self, adapter: AnyAdapter) -> bool:
        """Whether `adapter` is resident, or read and there are blocks for it (after evictions)."""
        if adapter.state is AdapterState.RESIDENT:
            return True
        if adapter.state is not AdapterState.HOST:
            return False
        room = self._pool.num_free + self.num_reclaimable(sparing=adapter)
        return adapter.blocks_to_load <= room

    def takes_steps(self, adapter: AnyAdapter) -> bool:
        """Whether `bring` would begin what takes some steps, where it has been read."""
        return any(
            entry.state is AdapterState.HOST and self._residency.should_wait(entry)
            for entry in adapter.parts
        )

    def start_copy(self, adapter: AnyAdapter) -> bool:
        """Begin to copy what is missing of `adapter` in the background, or to compute it. Ask
        `can_acquire` first.

        True if `acquire` need not wait: nothing is missing, or only what it places at once.
        """
        for entry in adapter.parts:
            if entry.state is AdapterState.HOST and self._residency.should_wait(entry):
                assert entry.num_blocks is not None
                freed = self._evictor.reclaim(entry.num_blocks, adapter.parts)
                assert freed, "can_acquire was not asked"
                self._residency.start(entry)
                self.host.touch(entry)
        return all(entry.state is not AdapterState.PLACING for entry in adapter.parts)

    @property
    def computing(self) -> list[AdapterEntry]:
        """Adapters that `bring` has begun and the model is to compute, the first one first."""
        return self._residency.computing

    def end_computing(self, entry: AdapterEntry, error: Exception | None = None) -> None:
        """The model has computed all of `entry`, or could not."""
        self._residency.end_computing(entry, error)
        self._placing_ended(entry)

    def stop_computing(self, entry: AdapterEntry) -> None:
        """Do without what was computed of `entry`, since no request waits for it."""
        self._residency.stop_computing(entry)
        self._remove_if_done(entry)

    def prefetch(self, adapter: AnyAdapter, floor: int) -> None:
        """Begin to copy what was read of `adapter`, if that leaves `floor` blocks free."""
        for entry in adapter.parts:
            if entry.state is not AdapterState.HOST or not self._residency.can_copy(entry):
                continue
            if self._pool.can_take((entry.num_blocks or 0) + floor):
                self._residency.start(entry)
                self.host.touch(entry)

    def acquire(self, adapter: AnyAdapter) -> None:
        """Count one more user, placing the rows first where needed. Ask `can_acquire` first.

        Raises a `GossamerError` if they cannot be placed: nothing is counted then, and the part
        that failed is refused.
        """
        # Resident parts first: what is in use is not evicted to make room for the others.
        entries = sorted(adapter.parts, key=lambda e: e.state is not AdapterState.RESIDENT)
        for done, entry in enumerate(entries):
            try:
                if entry.state is AdapterState.HOST:
                    self._place(entry)
            except BaseException:
                for other in entries[:done]:
                    other.users -= 1
                raise
            assert entry.state is AdapterState.RESIDENT
            entry.users += 1
            self._touch(entry)
            entry.heat.touch(self._clock())

    def release(self, adapter: AnyAdapter) -> None:
        """Count one user less; an adapter without users stays until its blocks are needed."""
        for entry in adapter.parts:
            assert entry.users > 0
            entry.users -= 1
            self._touch(entry)

    def num_reclaimable(self, *, sparing: AnyAdapter | None = None) -> int:
        """Blocks of adapters and prefixes that nobody uses, `sparing` not counted."""
        return self._evictor.num_reclaimable(sparing.parts if sparing is not None else ())

    def reclaim(self, count: int, *, sparing: AnyAdapter | None = None) -> bool:
        """Put out what is idle, the least valuable first, until `count` blocks are free."""
        return self._evictor.reclaim(count, sparing.parts if sparing is not None else ())

    def close(self) -> None:
        """Stop the loading threads."""
        for threads in (self._threads, self._copies):
            if threads is not None:
                threads.shutdown(wait=True, cancel_futures=True)

    @property
    def resident(self) -> list[AdapterEntry]:
        """Adapters whose rows are in the pool."""
        return list(self._residency.resident)

    @property
    def placing(self) -> list[AdapterEntry]:
        """Adapters whose rows are being copied there."""
        return list(self._residency.placing)

    @property
    def num_loads(self) -> int:
        """Times that an adapter was placed in the pool."""
        return self._residency.num_loads

    @property
    def num_evictions(self) -> int:
        """Times that one was put out."""
        return self._residency.num_evictions

    @property
    def is_loading(self) -> bool:
        """Whether anything is being read."""
        return len(self.reader) > 0

    # At run time.

    def unload(self, name: str, done: Callable[[], None]) -> None:
        """Take `name` away: new requests do not find it, accepted ones end with it.

        `done` is called when the last of them has. Raises `UnknownModelError`.
        """
        entry = self.names.take(name)
        self.unpin(name)
        entry.draining = True
        self._draining.setdefault(entry, []).append(done)
        self._remove_if_done(entry)

    def pin(self, entry: AdapterEntry, *, pinned: bool) -> None:
        """Keep a resident adapter in the pool, or no longer; see `Pins.set`."""
        self.pins.set(entry, pinned=pinned)

    def unpin(self, name: str) -> None:
        """Keep no version of `name` in the pool for its own sake."""
        for entry in self.pins.release(name):
            self._remove_if_done(entry)

    @property
    def num_pinned_blocks(self) -> int:
        """Blocks of all pinned adapters."""
        return self.pins.num_blocks

    def supersede(self, former: AdapterEntry, entry: AdapterEntry) -> None:
        """Let the name of both mean `entry`; accepted requests end with `former`."""
        self.names.switch(entry)
        self._remove_if_done(former)

    def audit(self) -> None:
        """Every block that an adapter has is its own, and no removed one has any."""
        self.host.audit()
        for entry in (*self._residency.resident, *self._residency.placing):
            assert len(entry.blocks) == entry.num_blocks
            assert all(self._pool.owner_of(block) is entry for block in entry.blocks)
        self.pins.audit(self.resident)

    def _place(self, entry: AdapterEntry) -> None:
        assert entry.num_blocks is not None
        freed = self.reclaim(entry.num_blocks)
        assert freed, "can_acquire was not asked"
        try:
            self._residency.place(entry)
        except GossamerError:
            self.names.forget(entry)
            raise
        self.host.touch(entry)
        if not self.host.max_bytes:
            self.host.drop(entry)

    def _placing_ended(self, entry: AdapterEntry) -> None:
        if entry.state in (AdapterState.REFUSED, AdapterState.UNREADABLE):
            # Not its files' fault: who asks for it next has it tried again.
            self.names.forget(entry)
        self._remove_if_done(entry)

    def _remove_if_done(self, entry: AdapterEntry) -> None:
        busy = (AdapterState.LOADING, AdapterState.PLACING, AdapterState.REMOVED)
        if entry.requests or entry.users or entry.state in busy:
            return
        if not entry.draining and self.names.is_current(entry):
            return
        self.pins.set(entry, pinned=False)
        if entry.state is AdapterState.RESIDENT:
            self._evictor.evict(entry)
        self.host.drop(entry)
        if entry.digest is not None:
            self.prefixes.drop([self.prefixes.root(entry.digest)])
        if entry.draining:
            entry.error = UnknownModelError(f"adapter '{entry.name}' has been unloaded")
            entry.state = AdapterState.REMOVED
            for done in self._draining.pop(entry, ()):
                done()

    def _touch(self, entry: AdapterEntry) -> None:
        self._uses += 1
        entry.last_used = self._uses
