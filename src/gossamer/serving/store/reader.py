"""Reads adapters from disk into host memory, in the background."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gossamer.errors import AdapterReadError, AdapterReplacedError, CapacityError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_faults import end_by, give_up, refuse, too_slow
from gossamer.serving.core.adapter_state import AdapterFacts, AdapterState
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.stats import LOAD_BOUNDS, Histogram

MOST_EARLY = 4
"""Adapters of any size that are read, or wait to be, for requests that the engine has not seen
yet. Small ones may be more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Holds what a loader makes of an adapter's files."""

    facts: AdapterFacts
    rows: Any
    """What is placed in blocks; where that does not make the adapter whole (`is_copied`), the model
    must have computed it there."""


class Loader(Protocol):
    """Reads adapters; knows tensors, as `Placer` does, which writes them into blocks."""

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read and check; raises `GossamerError`. Called on the loading thread."""


def reading_threads(limit_seconds: float = math.inf) -> DaemonThreads:
    """Make the threads where adapters are read; what takes longer than that is given up."""
    return DaemonThreads("gossamer-adapters", limit_seconds=limit_seconds, late=too_slow)


class AdapterReader:
    """Has adapters read, and takes over what was read."""

    def __init__(
        self,
        loader: Loader,
        threads: Executor,
        wake: Callable[[], None],
        num_blocks: int,
        clock: Callable[[], float] = time.monotonic,
        early_bytes: int = 0,
    ) -> None:
        """`wake` is called on a loading thread when one is done; the pool has `num_blocks`.
        `early_bytes` bounds the files of those read early, but for `MOST_EARLY`."""
        self._loader = loader
        self._threads = threads
        self._wake = wake
        self._num_blocks = num_blocks
        self._clock = clock
        self._loading: dict[AdapterEntry, Future[Loaded]] = {}
        self._reading: Counter[Path] = Counter()
        self._hanging: set[Path] = set()
        """Places whose reading was given up and goes on all the same."""
        # Held while an entry goes from early to loading, or begins either.
        self._lock = threading.RLock()
        self._early: dict[AdapterEntry, Future[Loaded]] = {}
        self._early_bytes = early_bytes
        self.seconds = Histogram(LOAD_BOUNDS)

    @property
    def num_loading(self) -> int:
        """Return how many adapters are being read for requests."""
        return len(self._loading)

    @property
    def num_early(self) -> int:
        """Return how many adapters are read early, for requests that have not come yet."""
        return len(self._early)

    @property
    def num_hanging(self) -> int:
        """Return how many places are still being read though that was given up."""
        return len(self._hanging)

    def close(self) -> None:
        """Stop the reading threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def prefetch_read(self, entry: AdapterEntry) -> None:
        """Begin to read `entry` for a request that is on its way to the engine's thread.

        From any thread: the engine looks only between two steps, and a request that comes in the
        middle of one would wait for the end of the next.
        """
        with self._lock:
            is_unread = entry.state is AdapterState.REGISTERED and entry not in self._early
            is_unread = is_unread and entry.path not in self._hanging
            if is_unread and self._has_room(entry):
                self._early[entry] = self._submit(entry)

    def _has_room(self, entry: AdapterEntry) -> bool:
        taken = sum(early.file_bytes for early in self._early)
        return len(self._early) < MOST_EARLY or taken + entry.file_bytes <= self._early_bytes

    def adopt(self, entry: AdapterEntry) -> None:
        """Let `collect` take `entry` over if it was read early: its request has come."""
        with self._lock:
            # Or it was unloaded before the request came.
            if entry in self._early and entry.state is AdapterState.REGISTERED:
                self._take_early(entry)

    def start(self, entry: AdapterEntry) -> None:
        """Have `entry` read unless that is done or under way."""
        with self._lock:
            if entry.state is not AdapterState.REGISTERED:
                return
            if entry in self._early:
                self._take_early(entry)
                return
            if entry.path in self._hanging:
                # Or each request for it would take another thread away.
                give_up(entry, too_slow())
                return
            entry.start_reading()
            self._loading[entry] = self._submit(entry)

    def _take_early(self, entry: AdapterEntry) -> None:
        future = self._early.pop(entry)
        entry.start_reading()
        self._loading[entry] = future
        # It may have been read, and the engine woken, before anyone would have collected it.
        future.add_done_callback(lambda _: self._wake())

    def collect(self) -> list[AdapterEntry]:
        """Take over what has been read since the last call: entries in state HOST, or an end."""
        self._forget_unwanted()
        done = [pair for pair in self._loading.items() if pair[1].done()]
        for entry, future in done:
            del self._loading[entry]
            self._take_over(entry, future)
        return [entry for entry, _ in done]

    def _forget_unwanted(self) -> None:
        """What was read early for requests that did not come, or have left."""
        with self._lock:
            for entry, future in list(self._early.items()):
                is_wanted = entry.requests and entry.state is AdapterState.REGISTERED
                if future.done() and not is_wanted:
                    del self._early[entry]

    def _submit(self, entry: AdapterEntry) -> "Future[Loaded]":
        try:
            future = self._threads.submit(self._read, entry)
        except RuntimeError as error:  # no thread can be started
            future = Future()
            future.set_exception(AdapterReadError(f"adapter {entry.name}: {error}; try again"))
        future.add_done_callback(lambda _: self._wake())
        return future

    def _read(self, entry: AdapterEntry) -> Loaded:
        started = self._clock()
        with self._lock:
            self._reading[entry.path] += 1
        try:
            loaded = self._loader.load(entry)
        finally:
            with self._lock:
                self._reading -= Counter([entry.path])
                self._hanging &= self._reading.keys()
        facts = replace(loaded.facts, read_seconds=self._clock() - started)
        return replace(loaded, facts=facts)

    def _take_over(self, entry: AdapterEntry, future: "Future[Loaded]") -> None:
        error = future.exception()
        if error is not None:
            with self._lock:
                if entry.path in self._reading:
                    self._hanging.add(entry.path)
            end_by(entry, error, "cannot be read")
            return
        loaded = future.result()
        facts = loaded.facts
        if entry.digest not in (None, facts.digest):
            entry.end(
                AdapterState.REPLACED,
                AdapterReplacedError(
                    f"adapter {entry.name} was replaced while this request, begun with the former "
                    "one, waited for memory; send it again"
                ),
            )
            return
        self.seconds.observe(facts.read_seconds)
        entry.learn(facts)
        if facts.num_blocks >= self._num_blocks:
            refuse(
                entry,
                CapacityError(
                    f"adapter {entry.name} needs {facts.num_blocks} blocks and the pool has "
                    f"{self._num_blocks}; serve with more --memory"
                ),
            )
            return
        entry.finish_reading(loaded.rows)
