"""Follows adapters from their names to memory: found, read, counted, forgotten.

All methods run on the engine's thread but `look_up`, `hold`, `prefetch_read`, `statuses`, `status`
and `stats`, which any thread may call.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable

from gossamer.errors import GossamerError, UnknownModelError
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter, Blend
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.stats import (
    AdapterStats,
    AdapterStatus,
    state_of,
    status_of,
    status_of_blend,
)
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.store.host_cache import HostCache
from gossamer.serving.store.names import AdapterNames
from gossamer.serving.store.reader import AdapterReader


class AdapterManager:
    """Knows all adapters that can be named, and the requests that use each of them."""

    def __init__(
        self,
        names: AdapterNames,
        reader: AdapterReader,
        host_cache: HostCache,
        memory: MemoryManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._reader = reader
        self._host_cache = host_cache
        self._memory = memory
        self._clock = clock
        self._uses = 0
        self._draining: dict[AdapterEntry, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._held: Counter[AdapterEntry] = Counter()
        """Calls on their way that hold each; changed under the lock."""
        self._hits: Counter[str] = Counter(resident=0, host=0, disk=0)

    # From any thread.

    def look_up(self, name: str) -> AnyAdapter:
        """Find what `name` means; see `AdapterNames.look_up`."""
        return self._names.look_up(name)

    def hold(self, adapter: AnyAdapter) -> None:
        """Count a call that is on its way with `adapter`: an unload waits for its requests too."""
        with self._lock:
            self._held.update(adapter.parts)

    def prefetch_read(self, adapter: AnyAdapter) -> None:
        """Begin to read `adapter` for a request that is on its way to the engine's thread."""
        for entry in adapter.parts:
            self._reader.prefetch_read(entry)

    def statuses(self) -> list[AdapterStatus]:
        """Show all adapters that can be named now, and those that are on their way out."""
        leaving = [status_of(entry) for entry in list(self._draining)]
        return [*(status_of(entry, name) for name, entry in self._names.all()), *leaving]

    def status(self, name: str) -> AdapterStatus:
        """Show what `name` means now, which may be a mixture, or what is on its way out under it.

        Raises as `look_up`.
        """
        try:
            found = self.look_up(name)
        except UnknownModelError:
            leaving = [entry for entry in list(self._draining) if entry.name == name]
            if not leaving:
                raise
            return status_of(leaving[0])
        return status_of_blend(found, name) if isinstance(found, Blend) else status_of(found, name)

    def stats(self) -> AdapterStats:
        """Count adapters by where they are; files of none are looked at, only names."""
        return AdapterStats(
            by_state=self.num_by_state(),
            num_host=len(self._host_cache),
            host_bytes=self._host_cache.num_bytes,
            hits=dict(self._hits),
            read_seconds=self._reader.seconds.stats(),
        )

    def num_by_state(self) -> dict[str, int]:
        """Count the adapters in each state; files of none are looked at."""
        found = Counter(state_of(entry) for entry in (*self._names.known(), *list(self._draining)))
        others = len(self._names.names()) + len(self._draining) - found.total()
        found["registered"] += max(0, others)
        return dict(found)

    # Requests.

    def let_go(self, adapter: AnyAdapter) -> None:
        """A call that held `adapter` has come, or will not; its requests count by themselves."""
        with self._lock:
            self._held -= Counter(adapter.parts)
        for entry in adapter.parts:
            self._remove_if_done(entry)

    def add_ref(self, adapter: AnyAdapter) -> None:
        """Count an accepted request for `adapter`."""
        for entry in adapter.parts:
            entry.add_ref()
            self._reader.adopt(entry)

    def count(self, adapter: AnyAdapter) -> None:
        """Count a new request that names `adapter`, by where that is."""
        for entry in adapter.parts:
            entry.count_hit(time.time())
            is_resident = entry.state is AdapterState.RESIDENT
            is_near = entry.state in (AdapterState.HOST, AdapterState.PLACING)
            self._hits["resident" if is_resident else "host" if is_near else "disk"] += 1

    def drop_ref(self, adapter: AnyAdapter) -> None:
        """A request for `adapter` has ended.

        One that was unloaded, or replaced by other files, is removed with its last request.
        """
        for entry in adapter.parts:
            entry.drop_ref()
            self._remove_if_done(entry)

    def swap_ref(self, former: AnyAdapter, adapter: AnyAdapter) -> AnyAdapter:
        """A request for `former` takes `adapter` instead; returns it."""
        self.add_ref(adapter)
        self.drop_ref(former)
        return adapter

    # Reading.

    @property
    def max_host_bytes(self) -> int:
        """Return the bytes that adapters may take in host memory while no request waits."""
        return self._host_cache.max_bytes

    def start_load(self, adapter: AnyAdapter) -> None:
        """Have `adapter` read in the background, unless that is done or under way."""
        for entry in adapter.parts:
            self._reader.start(entry)
            if entry.state is AdapterState.UNREADABLE:
                self._names.forget(entry)

    def collect_loads(self) -> None:
        """Take over what has been read and copied since the last call."""
        for entry in self._reader.collect():
            if entry.state is AdapterState.HOST:
                self._host_cache.put(entry)
            elif entry.state in (AdapterState.REPLACED, AdapterState.UNREADABLE):
                self._names.forget(entry)
            self._remove_if_done(entry)
        for entry in self._memory.collect_copies():
            self._placing_ended(entry)
        for entry in self._memory.unpin_superseded():
            self._remove_if_done(entry)

    def drop_unneeded_rows(self) -> None:
        """Keep the host cache within its bound; rows that a waiting request needs stay."""
        self._host_cache.trim()

    # Placing.

    def start_copy(self, adapter: AnyAdapter) -> bool:
        """Begin to copy what is missing of `adapter` in the background, or to compute it.

        Ask `MemoryManager.fits` first. True if `acquire` need not wait: nothing is missing, or only
        what it places at once.
        """
        for entry in adapter.parts:
            if self._memory.takes_steps(entry):
                self._memory.start_copy(entry, adapter.parts)
                self._host_cache.touch(entry)
        return all(entry.state is not AdapterState.PLACING for entry in adapter.parts)

    def prefetch(self, adapter: AnyAdapter, floor: int) -> None:
        """Begin to copy what was read of `adapter`, if that leaves `floor` blocks free."""
        for entry in adapter.parts:
            if self._memory.prefetch(entry, floor):
                self._host_cache.touch(entry)

    def acquire(self, adapter: AnyAdapter) -> None:
        """Count one more user, placing the rows first where needed; ask `fits` first.

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
                    other.drop_user()
                raise
            entry.add_user(self._next_use(), self._clock())

    def release(self, adapter: AnyAdapter) -> None:
        """Count one user less; an adapter without users stays until its blocks are needed."""
        for entry in adapter.parts:
            entry.drop_user(self._next_use())

    def end_computing(self, entry: AdapterEntry, error: Exception | None = None) -> None:
        """The model has computed all of `entry`, or could not."""
        self._memory.end_computing(entry, error)
        self._placing_ended(entry)

    def stop_computing(self, entry: AdapterEntry) -> None:
        """Do without what was computed of `entry`, since no request waits for it."""
        self._memory.stop_computing(entry)
        self._remove_if_done(entry)

    # At run time.

    def unload(self, name: str, done: Callable[[], None]) -> None:
        """Take `name` away: new requests do not find it, accepted ones end with it.

        `done` is called when the last of them has. Raises `UnknownModelError`.
        """
        entry = self._names.take(name)
        self.unpin(name)
        entry.start_draining()
        self._draining.setdefault(entry, []).append(done)
        self._remove_if_done(entry)

    def unpin(self, name: str) -> None:
        """Keep no version of `name` in the pool for its own sake."""
        for entry in self._memory.unpin(name):
            self._remove_if_done(entry)

    def supersede(self, former: AdapterEntry, entry: AdapterEntry) -> None:
        """Let the name of both mean `entry`; accepted requests end with `former`."""
        self._names.switch(entry)
        self._remove_if_done(former)

    def audit(self) -> None:
        """Recount the host cache."""
        self._host_cache.audit()

    def close(self) -> None:
        """Stop the reading threads."""
        self._reader.close()

    def _place(self, entry: AdapterEntry) -> None:
        try:
            self._memory.place(entry)
        except GossamerError:
            self._names.forget(entry)
            raise
        self._host_cache.touch(entry)
        if not self._host_cache.max_bytes:
            self._host_cache.drop(entry)

    def _placing_ended(self, entry: AdapterEntry) -> None:
        if entry.state in (AdapterState.REFUSED, AdapterState.UNREADABLE):
            # Not its files' fault: the next request for it has it tried again.
            self._names.forget(entry)
        self._remove_if_done(entry)

    def _remove_if_done(self, entry: AdapterEntry) -> None:
        busy = (AdapterState.LOADING, AdapterState.PLACING, AdapterState.REMOVED)
        if entry.requests or entry.users or entry in self._held or entry.state in busy:
            return
        if not entry.draining and self._names.is_current(entry):
            return
        self._memory.forget(entry)
        self._host_cache.drop(entry)
        if entry.draining:
            error = UnknownModelError(f"adapter '{entry.name}' has been unloaded")
            entry.end(AdapterState.REMOVED, error)
            for done in self._draining.pop(entry, ()):
                done()

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses
