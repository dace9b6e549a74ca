"""Keeps who owns which block: one free list for keys, values and adapter rows, in integers."""

from collections.abc import Callable, Hashable, Sequence


class BlockPool:
    """Hands out blocks 0 .. num_blocks - 1. No compaction is ever needed: readers gather."""

    def __init__(self, num_blocks: int, launched: Callable[[], int] = lambda: 0) -> None:
        """`launched` tells the number of the step that was launched last: no later one uses what is
        given back now."""
        self.num_blocks = num_blocks
        self._launched = launched
        self._last_step = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._owners: dict[int, Hashable] = {}

    @property
    def num_free(self) -> int:
        """Return how many blocks `take` can hand out now."""
        return len(self._free)

    def can_take(self, count: int) -> bool:
        """Tell whether `take(count, ...)` would succeed."""
        return count <= len(self._free)

    def take(self, count: int, owner: Hashable) -> list[int]:
        """Hand out `count` free blocks, now owned by `owner`. Ask `can_take` first."""
        assert self.can_take(count), f"{count} blocks asked for, {len(self._free)} free"
        # At once, from the end: a loop takes as long as all else when an adapter is placed.
        start = len(self._free) - count
        blocks = self._free[start:][::-1]
        del self._free[start:]
        self._owners.update(dict.fromkeys(blocks, owner))
        return blocks

    def give(self, blocks: Sequence[int], owner: Hashable) -> None:
        """Take `blocks` back from `owner`; steps that were launched may use them still."""
        step = self._launched()
        for block in blocks:
            assert self._owners.get(block) == owner, f"block {block} is not {owner}'s"
            del self._owners[block]
            self._free.append(block)
            self._last_step[block] = step

    def last_step(self, blocks: Sequence[int]) -> int:
        """Return the newest step that may have used any of `blocks` for those who had them before.

        What is copied into them must not be written before that step is done. 0: none.
        """
        return max(map(self._last_step.__getitem__, blocks), default=0)

    def hand_over(self, block: int, owner: Hashable, new_owner: Hashable) -> None:
        """Make `block` of `owner` one of `new_owner`."""
        assert self._owners.get(block) == owner, f"block {block} is not {owner}'s"
        self._owners[block] = new_owner

    def owner_of(self, block: int) -> Hashable:
        """Return who has `block`; None if it is free."""
        return self._owners.get(block)

    def num_owned(self, owner: Hashable) -> int:
        """Count the blocks of `owner`; walks the whole map."""
        return sum(1 for other in self._owners.values() if other == owner)

    def audit(self) -> None:
        """Recount: free and owned blocks are disjoint and together the whole pool."""
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & self._owners.keys(), "a block is both free and owned"
        assert len(free) + len(self._owners) == self.num_blocks, "blocks are lost"
