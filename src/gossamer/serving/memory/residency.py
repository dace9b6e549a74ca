"""Places adapters in the pool, now or in the background, and evicts them."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gossamer.errors import GossamerError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_faults import end_by
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.tickets import Ticket
from gossamer.serving.memory.block_pool import BlockPool


class Placer(Protocol):
    """Writes rows into blocks."""

    def place(self, rows: Any, blocks: list[int], after: int) -> Ticket:
        """Begin to write `rows` into `blocks`, which steps up to number `after` may still use.

        The ticket's result is the table that finds the rows. Where this raises, nothing is written
        any more.
        """


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy that was begun."""

    ticket: Ticket
    started: float
    seconds: float | None
    """How long it took, if it was done when it had been begun."""


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
        evicted: Callable[[Any], None] = lambda table: None,
    ) -> None:
        """`copies` is where rows are copied; None: on the caller's thread. Rows of so few bytes
        between two calls of `collect` are copied at once all the same. `wake` is called when
        `collect` has something to take over, and `evicted` with the table of what is evicted."""
        self._pool = pool
        self._placer = placer
        self._wake = wake
        self._copies = copies
        self._clock = clock
        self._evicted = evicted
        self._at_once_bytes = self._at_once_left = at_once_bytes
        self.resident: dict[AdapterEntry, None] = {}
        self._placing: dict[AdapterEntry, Future[_Copy]] = {}
        self._joined: Future[None] | None = None
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
            copy = self._copy(entry.rows, *self._places(entry))
            copy.ticket.wait()
        except Exception as error:
            raise self._refuse(entry, error) from error
        self._settle(entry, copy)

    def start(self, entry: AdapterEntry) -> None:
        """Begin to place it, into free blocks; its rows may not be dropped meanwhile.

        What is not copied is the caller's to compute, until `end_computing` or `stop_computing`.
        """
        entry.start_placing(self._take(entry))
        if not entry.is_copied:
            self._computing[entry] = self._clock()
            return
        assert self._copies is not None
        future = self._copies.submit(self._copy, entry.rows, *self._places(entry))
        self._placing[entry] = future
        future.add_done_callback(lambda _: self._wake())

    def collect(self) -> list[AdapterEntry]:
        """Take over what has been copied since the last call: resident now, or refused."""
        self._at_once_left = self._at_once_bytes
        ended = []
        for entry, future in list(self._placing.items()):
            if not future.done():
                continue
            try:
                copy = future.result()
                if not copy.ticket.done:
                    self._wake_after(copy.ticket)
                    continue
            except Exception as error:
                del self._placing[entry]
                self._refuse(entry, error)
            else:
                del self._placing[entry]
                self._settle(entry, copy)
            ended.append(entry)
        return ended

    def end_computing(self, entry: AdapterEntry, error: Exception | None = None) -> None:
        """The model has computed what belongs into its blocks: resident. Or failed: refused."""
        seconds = self._clock() - self._computing.pop(entry)
        if error is not None:
            self._refuse(entry, error)
            return
        try:
            copy = self._copy(entry.rows, *self._places(entry))
            copy.ticket.wait()
        except Exception as failure:
            self._refuse(entry, failure)
        else:
            self._settle(entry, replace(copy, seconds=seconds))

    def stop_computing(self, entry: AdapterEntry) -> None:
        """Give up what was computed of it."""
        del self._computing[entry]
        self._pool.give(entry.leave_blocks(), entry)

    def evict(self, entry: AdapterEntry) -> None:
        """Take it out of the pool; its blocks are free again."""
        assert entry.users == 0
        assert entry.state is AdapterState.RESIDENT
        self._evicted(entry.table)
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

    def _places(self, entry: AdapterEntry) -> tuple[list[int], int]:
        """Return the blocks that it gets, and the step that may still use what was in them."""
        return entry.blocks, self._pool.last_step(entry.blocks)

    def _copy(self, rows: object, blocks: list[int], after: int) -> _Copy:
        started = self._clock()
        ticket = self._placer.place(rows, blocks, after)
        return _Copy(ticket, started, self._clock() - started if ticket.done else None)

    def _wake_after(self, ticket: Ticket) -> None:
        """Have the engine woken when `ticket` is done: it may have no step to run until then."""
        assert self._copies is not None
        if self._joined is None or self._joined.done():
            self._joined = self._copies.submit(ticket.join)
            self._joined.add_done_callback(lambda _: self._wake())

    def _settle(self, entry: AdapterEntry, copy: _Copy) -> None:
        seconds = self._clock() - copy.started if copy.seconds is None else copy.seconds
        entry.finish_placing(copy.ticket.result(), seconds)
        self.resident[entry] = None
        self.num_loads += 1
