"""Rank 0's side: what its engine does is announced to the other ranks, which do it too."""

import itertools
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from gossamer.children import Children
from gossamer.cluster.tensor_parallel.group import ProcessRanks
from gossamer.cluster.tensor_parallel.loading import load_together
from gossamer.cluster.tensor_parallel.messages import (
    CheckAdapters,
    Encoder,
    EvictAdapter,
    ForgetRows,
    LoadAdapter,
    MergeAdapter,
    Message,
    Ping,
    PlaceAdapter,
    RunStep,
    StepPart,
    Stop,
)
from gossamer.cluster.tensor_parallel.numbered import (
    MergedLayers,
    NumberedAdapter,
    NumberedResident,
)
from gossamer.errors import AdapterReplacedError, RankLostError, ServingError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.tickets import Ticket
from gossamer.serving.runner.adapter_loader import AdapterLoader
from gossamer.serving.runner.lowering.step import HostStep, Lowering, StepBatch
from gossamer.serving.runner.merged_weights import LayerMerger
from gossamer.serving.runner.team import TeamLoader
from gossamer.serving.scheduler.hot_merge import Merge
from gossamer.serving.store.reader import Loaded

log = logging.getLogger(__name__)

PING_SECONDS = 10.0
"""A message goes out this often at least: silence would be taken for the end of rank 0."""
_REASON_SECONDS = 1.0
"""So long a broken connection waits for the news of a child's end, which says more."""


class Leader:
    """See `Team`. Announcements come from several threads and go out in one order."""

    def __init__(self, seconds: float, on_lost: Callable[[], None]) -> None:
        """seconds: after which a silent rank counts as lost, of which `on_lost` is told."""
        self._on_lost = on_lost
        self._joined: ProcessRanks | None = None
        self.children: Children | None = None
        self.numbers = itertools.count(1)
        self.gone: deque[int] = deque()
        """Numbers of adapters whose rows rank 0 has dropped."""
        self._encoder = Encoder()
        self._sending = threading.Lock()
        self._last_sent = time.monotonic()
        self._lost: RankLostError | None = None
        self._is_lost = threading.Event()
        self._is_closed = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self.ping_seconds = min(PING_SECONDS, seconds / 4)
        self._pings = threading.Thread(target=self._ping, name="gossamer-pings", daemon=True)

    def join(self, ranks: ProcessRanks, children: Children | None) -> None:
        """Take over the ranks, and the processes that were started for them, if any were."""
        self.children = children
        self._joined = ranks.failing_with(self.lost)

    @property
    def ranks(self) -> ProcessRanks:
        """See `Team.ranks`."""
        assert self._joined is not None
        return self._joined

    # What rank 0 tells.

    def announce(self, message: Message) -> None:
        """Tell the other ranks; raises `RankLostError` if one is gone or does not listen."""
        with self._sending:
            self.check()
            try:
                if self.gone:
                    forgotten = [self.gone.popleft() for _ in range(len(self.gone))]
                    self._send(ForgetRows(forgotten))
                self._send(message)
            except RuntimeError as error:
                raise self.lost(error) from error

    def _send(self, message: Message) -> None:
        self.ranks.control.send(self._encoder.encode(message))
        self._last_sent = time.monotonic()

    def start_pings(self) -> None:
        """Begin to tell the others that rank 0 is there; they listen from now on."""
        self._pings.start()

    def _ping(self) -> None:
        while not self._is_closed.wait(self.ping_seconds / 2):
            if time.monotonic() - self._last_sent < self.ping_seconds:
                continue
            try:
                self.announce(Ping())
            except RankLostError:
                return

    # Losing a rank.

    def child_ended(self, rank: int, code: int) -> None:
        """A process that was started for a rank has ended."""
        if not self._is_closed.is_set():
            self._lose(f"rank {rank} was lost (exit code {code}); restart the server")

    def lost(self, cause: Exception) -> RankLostError:
        """A rank does not answer; returns the error that says so."""
        if not self._is_lost.wait(_REASON_SECONDS):
            reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            self._lose(f"a rank was lost ({reason}); restart the server")
        assert self._lost is not None
        return self._lost

    def _lose(self, message: str) -> None:
        if self._lost is None:
            self._lost = RankLostError(message)
            log.error("%s", message)
        self._is_lost.set()
        self._wake()
        self._on_lost()

    # As the engine sees it.

    def lowering(self, lowering: Lowering) -> Lowering:
        """See `Team.lowering`."""
        return _AnnouncedSteps(self, lowering)

    def loader(self, loader: AdapterLoader) -> TeamLoader:
        """See `Team.loader`."""
        return _AnnouncedAdapters(self, loader)

    def evicted(self, table: Any) -> None:
        """See `Team.evicted`."""
        assert isinstance(table, NumberedResident)
        self.announce(EvictAdapter(table.number))

    def merge(self, merger: LayerMerger, loader: TeamLoader) -> Merge:
        """See `Team.merge`."""
        return _AnnouncedMerges(self, merger, loader)

    def watch(self, wake: Callable[[], None]) -> None:
        """See `Team.watch`."""
        self._wake = wake
        if self._is_lost.is_set():
            wake()

    def check(self) -> None:
        """See `Team.check`."""
        if self._lost is not None:
            raise self._lost

    def audit(self, adapters: Iterable[tuple[Any, list[int]]]) -> None:
        """See `Team.audit`."""
        self.announce(CheckAdapters({str(table.number): blocks for table, blocks in adapters}))
        try:
            differs = self.ranks.any_differs(False)
        except RuntimeError as error:
            raise self.lost(error) from error
        assert not differs, "a rank has other adapters than rank 0"

    def close(self) -> None:
        """See `Team.close`."""
        if self._is_closed.is_set() or self._joined is None:
            return
        self._is_closed.set()
        try:
            self.announce(Stop())
        except RankLostError:
            log.debug("the ranks could not be told to stop", exc_info=True)
        if self._pings.is_alive():
            self._pings.join()
        if self.children is not None:
            if self._is_lost.is_set():
                self.children.kill()
            self.children.end()
        self.ranks.close()


class _AnnouncedSteps:
    """See `Lowering`."""

    def __init__(self, leader: Leader, lowering: Lowering) -> None:
        self._leader = leader
        self._lowering = lowering

    def lower(self, step: HostStep) -> StepBatch:
        """Lower `step`, then have it computed by the others, whose order of tokens is this one."""
        batch = self._lowering.lower(step)
        merged = step.merged
        number = merged.rows.number if isinstance(merged, MergedLayers) else 0
        self._leader.announce(RunStep(_parts(step), number))
        return batch


def _parts(step: HostStep) -> list[StepPart]:
    parts = []
    for chunk, met in zip(step.chunks, step.met, strict=True):
        sequence = chunk.sequence
        rows = sequence.prefix_of.rows if sequence.prefix_of is not None else None
        parts.append(
            StepPart(
                tokens=chunk.tokens,
                num_computed=sequence.num_computed,
                num_prompt=sequence.num_prompt,
                is_due=chunk.is_due,
                scored=chunk.scored,
                blocks=sequence.blocks,
                uses=[
                    (resident.number, weight)
                    for resident, weight in met
                    if isinstance(resident, NumberedResident)
                ],
                prefix_of=rows.number if isinstance(rows, NumberedAdapter) else 0,
            )
        )
    return parts


class _AnnouncedAdapters:
    """See `TeamLoader`."""

    def __init__(self, leader: Leader, loader: AdapterLoader) -> None:
        self._leader = leader
        self._loader = loader
        # All ranks load in one order: each waits for the others in the middle of it.
        self._loading = threading.Lock()

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read it here first, so that what is wrong with its files holds no other rank up."""
        adapter = self._loader.read(entry.path)
        leader = self._leader
        with self._loading:
            number = next(leader.numbers)
            path = str(entry.path.absolute())
            leader.announce(LoadAdapter(number, path, entry.name, adapter.digest))
            try:
                share, num_blocks = load_together(
                    lambda: adapter, entry.name, self._loader.packer, leader.ranks
                )
            except RuntimeError as error:
                raise leader.lost(error) from error
            except Exception:
                leader.gone.append(number)
                raise
        rows = NumberedAdapter.of(share, number)
        weakref.finalize(rows, leader.gone.append, number).atexit = False
        return self._loader.loaded(adapter, rows, num_blocks)

    def place(self, rows: NumberedAdapter, blocks: list[int], after: int) -> Ticket:
        """Have all ranks copy their shares into the same blocks."""
        self._leader.announce(PlaceAdapter(rows.number, blocks))
        try:
            return self._loader.place(rows, blocks, after)
        except Exception:
            # Of memory, say: its blocks will have another use.
            self._leader.announce(EvictAdapter(rows.number))
            raise


class _AnnouncedMerges:
    """See `LayerMerger`."""

    def __init__(self, leader: Leader, merger: LayerMerger, loader: TeamLoader) -> None:
        self._leader = leader
        self._merger = merger
        self._loader = loader

    def __call__(self, entry: AdapterEntry, stop: threading.Event) -> MergedLayers | None:
        loaded = self._loader.load(entry)
        rows = loaded.rows
        assert isinstance(rows, NumberedAdapter)
        if loaded.facts.digest != entry.digest:
            raise AdapterReplacedError(f"adapter {entry.name} was replaced on disk")
        self._leader.announce(MergeAdapter(rows.number))
        error: Exception | None = None
        layers = None
        try:
            layers = self._merger.merged(rows, stop)
        except Exception as failure:
            error = failure
        try:
            failed = self._leader.ranks.any_failed(error is not None)
        except RuntimeError as failure:
            raise self._leader.lost(failure) from failure
        if error is not None:
            raise error
        if failed:
            raise ServingError(f"adapter {entry.name} could not be merged on every rank")
        return MergedLayers(layers, rows) if layers is not None else None
