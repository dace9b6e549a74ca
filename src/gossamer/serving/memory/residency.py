"""Places adapters in the pool, now or in the background, and evicts them."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

from gossamer.errors import GossamerError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_faults import end_by
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.memory.block_pool import BlockPool


class Placer(Protocol):
    """Writes rows into blocks."""

    def place(self, rows: Any, blocks: list[int]) -> Any:
        """Write `rows` into `blocks`; returns the table that finds them."""


class Residency:
    """Keeps who is in the pool, and who is on the way there."""

    def __init__(
        self,
        pool: BlockPool,
        placer: Placer,
        wake: Callable[[], None],
        copies: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        at_once_bytes: int = 0,
    ) -> None:
        """`copies` is where rows are copied; None: on the caller's thread. Rows of so few bytes
        between two calls of `collect` are copied at once all the same."""
        self._pool = pool
        self._placer = placer
        self._wake = wake
        self._copies = copies
        self._clock = clock
        self._at_once_bytes = self._at_once_left = at_once_bytes
        self.resident: dict[AdapterEntry, None] = {}
        self._placing: dict[AdapterEntry, Future[tuple[object, float]]] = {}
        self._computing: dict[AdapterEntry, float] = {}
        self.num_loads = 0
        self.num_evictions = 0

    @property
    def placing(self) -> list[AdapterEntry]:
        """List what is being copied or computed; its blocks are taken already."""
        return [*self._placing, *self._computing]

    @property
    def computing(self) -> list[AdapterEntry]:
        """List what the model computes, in the order in which it was begun."""
        return list(self._computing)

    def can_copy(self, entry: AdapterEntry) -> bool:
        """Tell whether `start` can place it in the background."""
        return self._copies is not None and entry.is_copied

    def should_wait(self, entry: AdapterEntry) -> bool:
        """Whether `start` is better than `place`, as a step would take notice of the copying, or
        needed, as steps compute it."""
        is_large = (entry.num_bytes or 0) > self._at_once_left
        return not entry.is_copied or (self.can_copy(entry) and is_large)

    def place(self, entry: AdapterEntry) -> None:
        """Place it now, into free blocks. Raises a `GossamerError` and refuses it."""
        self._at_once_left -= entry.num_bytes or 0
        entry.start_placing(self._take(entry))
        try:
            table, seconds = self._copy(entry.rows, entry.blocks)
        except Exception as error:
            raise self._refuse(entry, error) from error
        self._settle(entry, table, seconds)

    def start(self, entry: AdapterEntry) -> None:
        """Begin to place it, into free blocks; its rows may not be dropped meanwhile.

        What is not copied is the caller's to compute, until `end_computing` or `stop_computing`.
        """
        entry.start_placing(self._take(entry))
        if not entry.is_copied:
            self._computing[entry] = self._clock()
            return
        assert self._copies is not None
        future = self._copies.submit(self._copy, entry.rows, entry.blocks)
        self._placing[entry] = future
        future.add_done_callback(lambda _: self._wake())

    def collect(self) -> list[AdapterEntry]:
        """Take over what has been copied since the last call: resident now, or refused."""
        self._at_once_left = self._at_once_bytes
        done = [pair for pair in self._placing.items() if pair[1].done()]
        for entry, future in done:
            del self._placing[entry]
            try:
                table, seconds = future.result()
            except Exception as error:
                self._refuse(entry, error)
                continue
            self._settle(entry, table, seconds)
        return [entry for entry, _ in done]

    def end_computing(self, entry: AdapterEntry, error: Exception | None = None) -> None:
        """The model has computed what belongs into its blocks: resident. Or failed: refused."""
        seconds = self._clock() - self._computing.pop(entry)
        if error is not None:
            self._refuse(entry, error)
            return
        try:
            table, _ = self._copy(entry.rows, entry.blocks)
        except Exception as failure:
            self._refuse(entry, failure)
        else:
            self._settle(entry, table, seconds)

    def stop_computing(self, entry: AdapterEntry) -> None:
        """Give up what was computed of it."""
        del self._computing[entry]
        self._pool.give(entry.leave_blocks(), entry)

    def evict(self, entry: AdapterEntry) -> None:
        """Take it out of the pool; its blocks are free again."""
        assert entry.users == 0
        assert entry.state is AdapterState.RESIDENT
        self._pool.give(entry.leave_blocks(), entry)
        del self.resident[entry]
        self.num_evictions += 1

    def close(self) -> None:
        """Stop the copying thread."""
        if self._copies is not None:
            self._copies.shutdown(wait=True, cancel_futures=True)

    def audit(self) -> None:
        """Check that every block of an adapter is its own."""
        for entry in (*self.resident, *self.placing):
            assert len(entry.blocks) == entry.num_blocks
            assert all(self._pool.owner_of(block) is entry for block in entry.blocks)

    def _refuse(self, entry: AdapterEntry, error: Exception) -> GossamerError:
        """Placing it has failed, for want of memory, say: its blocks are free again."""
        end_by(entry, error, "cannot be placed")
        self._pool.give(entry.leave_blocks(), entry)
        assert entry.error is not None
        return entry.error

    def _take(self, entry: AdapterEntry) -> list[int]:
        assert entry.num_blocks is not None
        return self._pool.take(entry.num_blocks, entry)

    def _copy(self, rows: object, blocks: list[int]) -> tuple[object, float]:
        started = self._clock()
        return self._placer.place(rows, blocks), self._clock() - started

    def _settle(self, entry: AdapterEntry, table: object, seconds: float) -> None:
        entry.finish_placing(table, seconds)
        self.resident[entry] = None
        self.num_loads += 1
