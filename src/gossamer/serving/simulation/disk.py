"""Pretends adapters that are only numbers, and a disk that takes its time to read them."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterFacts
from gossamer.serving.core.tickets import DoneTicket, Ticket
from gossamer.serving.store.folder import AdapterFolder
from gossamer.serving.store.reader import Loaded


class SimulatedFolder(AdapterFolder):
    """Holds adapters "0", "1", ... of given ranks."""

    def __init__(self, ranks: list[int]) -> None:
        super().__init__(None)
        self.ranks = ranks

    def names(self) -> list[str]:
        """List the names of all adapters."""
        return [str(index) for index in range(len(self.ranks))]

    def look_up(self, name: str) -> AdapterEntry:
        """Make a fresh entry."""
        return AdapterEntry(name=name, path=Path(name), signature=((0, 0, 0),))


class SimulatedLoader:
    """Knows what an adapter would weigh."""

    def __init__(self, ranks: list[int], bytes_per_rank: float, block_bytes: float) -> None:
        self._ranks = ranks
        self._bytes_per_rank = bytes_per_rank
        self._block_bytes = block_bytes

    def load(self, entry: AdapterEntry) -> Loaded:
        """Return what `entry` would weigh; nothing is read."""
        rank = self._ranks[int(entry.name)]
        num_bytes = int(rank * self._bytes_per_rank)
        return Loaded(
            rows=entry.name,
            facts=AdapterFacts(
                digest=entry.name,
                num_blocks=max(1, -int(-num_bytes // self._block_bytes)),
                num_bytes=num_bytes,
                rank=rank,
            ),
        )

    def place(self, rows: Any, blocks: list[int], after: int) -> Ticket:
        """Return the rows themselves; nothing is written."""
        return DoneTicket(rows)


class SimulatedDisk(Executor):
    """Reads one adapter after another; each is done `bytes / bytes_per_second` later."""

    def __init__(self, clock: Callable[[], float], bytes_per_second: float) -> None:
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._jobs: list[tuple[float, Future[Any], Any]] = []
        self._free_at = 0.0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have something read."""
        future: Future[Any] = Future()
        loaded: Loaded = function(*arguments, **named)
        start = max(self._free_at, self._clock())
        self._free_at = start + loaded.facts.num_bytes / self._bytes_per_second
        self._jobs.append((self._free_at, future, loaded))
        return future

    def end_due(self) -> None:
        """End the readings that are due."""
        now = self._clock()
        while self._jobs and self._jobs[0][0] <= now:
            _, future, loaded = self._jobs.pop(0)
            future.set_result(loaded)

    @property
    def next_end(self) -> float | None:
        """Return when the next read ends."""
        return self._jobs[0][0] if self._jobs else None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: nothing is left running."""
