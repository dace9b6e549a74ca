"""The blocks of each sequence of a step as one array, of which most stays from step to step."""

from collections.abc import Sequence

import numpy as np

from gossamer.serving.runner.lowering.step import IntArray


class BlockTables:
    """Makes the arrays; to make a row costs ten times as much as to see that it has not changed.

    A sequence that decodes gets a block once in as many steps as a block has tokens.
    """

    def __init__(self) -> None:
        self._lists: list[list[int]] = []
        """The rows of the last array."""
        self._array: IntArray = np.zeros((0, 0), dtype=np.int32)

    def array(self, blocks: Sequence[list[int]]) -> IntArray:
        """Return int32 [sequences, longest], zeros behind each row; it is not changed later."""
        width = max(map(len, blocks))
        if self._array.shape != (len(blocks), width):
            self._array = np.zeros((len(blocks), width), dtype=np.int32)
            self._lists = [[] for _ in blocks]
            changed = list(range(len(blocks)))
        else:
            changed = [i for i, row in enumerate(blocks) if row != self._lists[i]]
            if changed:
                self._array = self._array.copy()
        for i in changed:
            found = self._lists[i] = list(blocks[i])
            self._array[i, : len(found)] = found
            self._array[i, len(found) :] = 0
        return self._array
