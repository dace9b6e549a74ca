"""What an engine asks of the ranks that compute its model together; one rank has none to ask."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.tickets import Ticket
from gossamer.serving.runner.adapter_loader import AdapterLoader
from gossamer.serving.runner.lowering.step import Lowering
from gossamer.serving.runner.merged_weights import LayerMerger
from gossamer.serving.scheduler.hot_merge import Merge
from gossamer.serving.shard import WHOLE, Shard
from gossamer.serving.store.reader import Loaded


class Ranks(Protocol):
    """The ranks while the model is loaded: all call the same methods in the same order."""

    @property
    def shard(self) -> Shard:
        """Return this rank."""

    def least(self, number: int) -> int:
        """Return the smallest of the numbers of all ranks."""

    def meet(self) -> None:
        """Wait until all ranks are here."""


class TeamLoader(Protocol):
    """A loader and placer whose adapters all ranks have."""

    def load(self, entry: AdapterEntry) -> Loaded:
        """See `Loader.load`."""

    def place(self, rows: Any, blocks: list[int], after: int) -> Ticket:
        """See `Placer.place`."""


class Team(Protocol):
    """The other ranks, as the engine on rank 0 sees them: they mirror what it does."""

    @property
    def ranks(self) -> Ranks:
        """Return the ranks as they are while the model is loaded."""

    def lowering(self, lowering: Lowering) -> Lowering:
        """Return a lowering that has each step computed by all ranks."""

    def loader(self, loader: AdapterLoader) -> TeamLoader:
        """Return a loader whose adapters all ranks have."""

    def evicted(self, table: Any) -> None:
        """The blocks of a placed adapter will have another use."""

    def merge(self, merger: LayerMerger, loader: TeamLoader) -> Merge:
        """Return what merges an adapter into weights, on all ranks."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, on any thread, when a rank is lost."""

    def check(self) -> None:
        """Raise `RankLostError` if a rank is lost."""

    def audit(self, adapters: Iterable[tuple[Any, list[int]]]) -> None:
        """Have the others compare what they have in the pool with these tables and their blocks.

        On the engine's thread; raises `AssertionError`.
        """

    def close(self) -> None:
        """Let the others end."""


class _OneRank:
    shard = WHOLE

    def least(self, number: int) -> int:
        return number

    def meet(self) -> None:
        return


class Alone:
    """See `Team`: there is no other rank."""

    ranks: Ranks = _OneRank()

    def lowering(self, lowering: Lowering) -> Lowering:
        """See `Team.lowering`."""
        return lowering

    def loader(self, loader: AdapterLoader) -> TeamLoader:
        """See `Team.loader`."""
        return loader

    def evicted(self, table: Any) -> None:
        """See `Team.evicted`."""

    def merge(self, merger: LayerMerger, loader: TeamLoader) -> Merge:
        """See `Team.merge`."""
        return merger

    def watch(self, wake: Callable[[], None]) -> None:
        """See `Team.watch`."""

    def check(self) -> None:
        """See `Team.check`."""

    def audit(self, adapters: Iterable[tuple[Any, list[int]]]) -> None:
        """See `Team.audit`."""

    def close(self) -> None:
        """See `Team.close`."""
