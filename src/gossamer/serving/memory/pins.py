"""Keeps adapters in the pool whether or not they are used."""

from collections.abc import Callable

from gossamer.errors import CapacityError
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter

MAX_PINNED = 0.5
"""Share of the pool that pinned adapters may take: something must be computed beside them."""


class Pins:
    """Keeps who is pinned. A pin is a name's: a version that the name means no more loses it."""

    def __init__(self, pool_blocks: int, is_current: Callable[[AdapterEntry], bool]) -> None:
        self._pool_blocks = pool_blocks
        self._is_current = is_current
        self._pinned: dict[AdapterEntry, None] = {}
        self._lost: list[str] = []
        self.num_blocks = 0
        """The blocks of all pinned adapters."""
        self.num_changes = 0
        """Times that an adapter was pinned or no longer; what fits beside them may have changed."""

    def set(self, entry: AdapterEntry, *, pinned: bool) -> None:
        """Keep `entry`, which is resident, or no longer. Raises what `check` raises."""
        if pinned == entry.pinned:
            return
        if pinned:
            self.check(entry)
        entry.set_pinned(pinned)
        self.num_changes += 1
        if pinned:
            self._pinned[entry] = None
            self.num_blocks += entry.num_blocks or 0
        else:
            del self._pinned[entry]
            self.num_blocks -= entry.num_blocks or 0

    def release(self, name: str) -> list[AdapterEntry]:
        """Pin no version of `name` any more; returns those that were."""
        found = [entry for entry in self._pinned if entry.name == name]
        for entry in found:
            self.set(entry, pinned=False)
        self._lost = [lost for lost in self._lost if lost != name]
        return found

    def check(self, entry: AdapterEntry, *, instead_of: AdapterEntry | None = None) -> None:
        """Raise `CapacityError` if too little memory would be left for anything else; `instead_of`
        would be pinned no longer."""
        own, others = entry.num_blocks or 0, self.num_blocks
        if instead_of is not None and instead_of.pinned:
            others -= instead_of.num_blocks or 0
        if not entry.pinned and others + own > MAX_PINNED * self._pool_blocks:
            raise CapacityError(
                f"adapter {entry.name} takes {own} blocks, and {others} of "
                f"{self._pool_blocks} are pinned already; at most half of them may be"
            )

    def beside(self, adapter: AnyAdapter) -> int:
        """Count the blocks of pinned adapters other than `adapter`."""
        own = sum(entry.num_blocks or 0 for entry in adapter.parts if entry.pinned)
        return self.num_blocks - own

    def unpin_superseded(self) -> list[AdapterEntry]:
        """Unpin those whose names mean other files now, or none; returns them."""
        found = [entry for entry in self._pinned if not self._is_current(entry)]
        for entry in found:
            self.set(entry, pinned=False)
            self._lost.append(entry.name)
        return found

    def take_lost(self) -> list[str]:
        """Names whose pinned version was superseded since the last call: what they mean now should
        be pinned instead."""
        lost, self._lost = self._lost, []
        return lost

    def audit(self, resident: list[AdapterEntry]) -> None:
        """Check that what is pinned is in the pool, and counted."""
        pinned = [entry for entry in resident if entry.pinned]
        assert set(pinned) == self._pinned.keys()
        assert sum(len(entry.blocks) for entry in pinned) == self.num_blocks
