"""Adapters between disk and pool: loaded in the background, placed in blocks, evicted when idle.

All methods run on the engine's thread but `look_up` and `statuses`, which any thread may call.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from gossamer.errors import (
    AdapterFormatError,
    AdapterReplacedError,
    CapacityError,
    GossamerError,
    UnknownModelError,
)
from gossamer.serving.adapter_entry import AdapterEntry, AdapterState
from gossamer.serving.adapter_folder import AdapterFolder
from gossamer.serving.blend import AnyAdapter, Blend, parse_blend
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.interface import AdapterStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a loader makes of an adapter's files."""

    rows: Any
    num_blocks: int
    num_bytes: int
    rank: int | None
    digest: str
    kind: str = "low-rank"
    num_virtual_tokens: int = 0


class Loader(Protocol):
    """Reads adapters and writes their rows into blocks; the only one that knows tensors."""

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read and check; raises `GossamerError`. Called on the loading thread."""

    def place(self, rows: Any, blocks: list[int]) -> Any:
        """Copy rows into blocks; returns the table that finds them."""


class AdapterStore:
    """All adapters of a folder and where each of them is."""

    def __init__(
        self,
        folder: AdapterFolder,
        pool: BlockPool,
        loader: Loader,
        wake: Callable[[], None],
        *,
        threads: Executor | None = None,
    ) -> None:
        """`wake` is called on the loading thread whenever an adapter has been read.

        `threads` is where adapters are read; a thread of its own unless given.
        """
        self._folder = folder
        self._pool = pool
        self._loader = loader
        self._wake = wake
        self._lock = threading.Lock()
        self._current: dict[str, AdapterEntry] = {}
        self._resident: dict[AdapterEntry, None] = {}
        self._loading: dict[AdapterEntry, Future[Loaded]] = {}
        self._host: dict[AdapterEntry, None] = {}
        self._threads = threads or ThreadPoolExecutor(1, thread_name_prefix="gossamer-adapters")
        self._clock = 0
        self.num_loads = 0
        self.num_evictions = 0

    # Looking up, from any thread.

    def look_up(self, name: str) -> AnyAdapter:
        """The adapter `name`, or several with weights (`blend.parse_blend`).

        Raises `UnknownModelError`, the reason why an adapter is refused, or `RequestError` for
        weights that make no sense.
        """
        try:
            return self._look_up_one(name)
        except UnknownModelError:
            parts = parse_blend(name)
            if parts is None:
                raise
        entries = tuple(self._look_up_one(part) for part, _ in parts)
        blend = Blend(entries, tuple(weight for _, weight in parts))
        if blend.error is not None:
            raise blend.error.with_traceback(None)
        return blend

    def _look_up_one(self, name: str) -> AdapterEntry:
        """The entry for the files under `name` now; the same one as long as they do not change."""
        fresh = self._folder.look_up(name)
        with self._lock:
            known = self._current.get(name)
            if known is None or known.signature != fresh.signature:
                known = self._current[name] = fresh
        if known.error is not None:
            # One error for many callers: their frames must not pile up in its traceback.
            raise known.error.with_traceback(None)
        return known

    def statuses(self) -> list[AdapterStatus]:
        """All adapters that can be named now."""
        found = []
        for name in self._folder.names():
            try:
                entry = self._look_up_one(name)
            except UnknownModelError:
                continue
            except GossamerError:
                known = self._current.get(name)
                if known is None:
                    continue
                entry = known
            found.append(_status(entry))
        return found

    # Loading.

    def start_load(self, adapter: AnyAdapter) -> None:
        """Have `adapter` read in the background, unless that is done or under way."""
        for entry in adapter.parts:
            if entry.state is AdapterState.REGISTERED:
                entry.state = AdapterState.LOADING
                future = self._threads.submit(self._loader.load, entry)
                self._loading[entry] = future
                future.add_done_callback(lambda _: self._wake())

    def collect_loads(self) -> None:
        """Take over what has been read since the last call."""
        for entry, future in [pair for pair in self._loading.items() if pair[1].done()]:
            del self._loading[entry]
            self._take_over(entry, future)

    def _take_over(self, entry: AdapterEntry, future: "Future[Loaded]") -> None:
        try:
            loaded = future.result()
        except GossamerError as error:
            entry.error, entry.state = _without_path(error, entry), AdapterState.REFUSED
            return
        except Exception as error:  # a reader's bug must not take the engine down
            entry.error = AdapterFormatError(f"adapter {entry.name} cannot be read: {error}")
            entry.state = AdapterState.REFUSED
            return
        if entry.digest not in (None, loaded.digest):
            self._give_up(entry)
            return
        entry.rank, entry.digest, entry.kind = loaded.rank, loaded.digest, loaded.kind
        entry.num_virtual_tokens = loaded.num_virtual_tokens
        entry.num_blocks, entry.num_bytes = loaded.num_blocks, loaded.num_bytes
        if loaded.num_blocks >= self._pool.num_blocks:
            entry.error = CapacityError(
                f"adapter {entry.name} needs {loaded.num_blocks} blocks and the pool has "
                f"{self._pool.num_blocks}; serve with more --memory"
            )
            entry.state = AdapterState.REFUSED
            return
        entry.rows, entry.state = loaded.rows, AdapterState.HOST
        self._host[entry] = None

    def _give_up(self, entry: AdapterEntry) -> None:
        with self._lock:
            if self._current.get(entry.name) is entry:
                del self._current[entry.name]
        entry.error = AdapterReplacedError(
            f"adapter {entry.name} was replaced while this request, begun with the former one, "
            "waited for memory; send it again"
        )
        entry.state = AdapterState.REPLACED

    # Residency.

    def can_acquire(self, adapter: AnyAdapter) -> bool:
        """Whether `adapter` is resident, or read and there are blocks for it (after evictions)."""
        if adapter.state is AdapterState.RESIDENT:
            return True
        if adapter.state is not AdapterState.HOST:
            return False
        room = self._pool.num_free + self.num_reclaimable(sparing=adapter)
        return adapter.blocks_to_load <= room

    def acquire(self, adapter: AnyAdapter) -> None:
        """Count one more user, placing the rows first where needed. Ask `can_acquire` first."""
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

    def release(self, adapter: AnyAdapter) -> None:
        """Count one user less; an adapter without users stays until its blocks are needed."""
        for entry in adapter.parts:
            assert entry.users > 0
            entry.users -= 1
            self._touch(entry)

    def num_reclaimable(self, *, sparing: AnyAdapter | None = None) -> int:
        """Blocks of adapters that nobody uses, `sparing` not counted."""
        spared = sparing.parts if sparing is not None else ()
        return sum(len(e.blocks) for e in self._resident if e.users == 0 and e not in spared)

    def reclaim(self, count: int, *, sparing: AnyAdapter | None = None) -> bool:
        """Evict idle adapters, longest unused first, until `count` blocks are free."""
        if self._pool.can_take(count):
            return True
        spared = sparing.parts if sparing is not None else ()
        idle = sorted(
            (e for e in self._resident if e.users == 0 and e not in spared),
            # What can no longer be asked for (its files were replaced) goes first.
            key=lambda e: (self._current.get(e.name) is e, e.last_used),
        )
        for entry in idle:
            if self._pool.can_take(count):
                break
            self._evict(entry)
        return self._pool.can_take(count)

    def drop_unneeded_rows(self, needed: set[AnyAdapter]) -> None:
        """Forget rows in host memory that no waiting request needs any more."""
        entries = {entry for adapter in needed for entry in adapter.parts}
        for entry in [e for e in self._host if e not in entries]:
            del self._host[entry]
            entry.rows, entry.state = None, AdapterState.REGISTERED

    def close(self) -> None:
        """Stop the loading thread."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def resident(self) -> list[AdapterEntry]:
        """Adapters whose rows are in the pool."""
        return list(self._resident)

    @property
    def is_loading(self) -> bool:
        """Whether anything is being read."""
        return bool(self._loading)

    def _place(self, entry: AdapterEntry) -> None:
        assert entry.num_blocks is not None
        freed = self.reclaim(entry.num_blocks)
        assert freed, "can_acquire was not asked"
        blocks = self._pool.take(entry.num_blocks, entry)
        try:
            entry.table = self._loader.place(entry.rows, blocks)
        except BaseException:
            self._pool.give(blocks, entry)
            raise
        entry.blocks = blocks
        entry.rows = None
        entry.state = AdapterState.RESIDENT
        del self._host[entry]
        self._resident[entry] = None
        self.num_loads += 1

    def _evict(self, entry: AdapterEntry) -> None:
        assert entry.users == 0
        self._pool.give(entry.blocks, entry)
        entry.blocks, entry.table = [], None
        entry.state = AdapterState.REGISTERED
        del self._resident[entry]
        self.num_evictions += 1

    def _touch(self, entry: AdapterEntry) -> None:
        self._clock += 1
        entry.last_used = self._clock


def _without_path(error: GossamerError, entry: AdapterEntry) -> GossamerError:
    """`error` as clients may see it: the name instead of a place on the server's disk."""
    error.args = (str(error).replace(str(entry.path), entry.name),)
    return error


def _status(entry: AdapterEntry) -> AdapterStatus:
    # That it is read but not yet placed is nothing that a client could act upon.
    state = AdapterState.LOADING if entry.state is AdapterState.HOST else entry.state
    return AdapterStatus(
        name=entry.name,
        state=state.value,
        kind=entry.kind,
        rank=entry.rank,
        num_bytes=entry.num_bytes,
        digest=entry.digest,
        problem=str(entry.error) if entry.error is not None else None,
        created=int(entry.signature[-1][2] // 1_000_000_000) if entry.signature else 0,
    )
