"""The blocks of each sequence of a step as one array, of which most stays from step to step."""

from collections.abc import Sequence

import numpy as np

from gossamer.serving.runner.lowering.step import IntArray


class BlockTables:
    """Makes the arrays; to make a row costs ten times as much as to see that it has not changed.

    A sequence that decodes gets a block once in as many steps as a block has tokens. Where one has
    left, the rows of those behind it move up.
    """

    def __init__(self) -> None:
        self._array: IntArray = np.zeros((0, 0), dtype=np.int32)
        self._rows: list[list[int]] = []
        """What is in the rows of the last array."""
        self._given: list[list[int]] = []
        """The lists of which they were made, which sequences may have changed since."""

    def array(self, blocks: Sequence[list[int]]) -> IntArray:
        """Return int32 [sequences, longest], zeros behind each row; it is not changed later."""
        before, rows = self._array, self._rows
        shape = (len(blocks), max(map(len, blocks)))
        changed = [i for i, row in enumerate(blocks) if i >= len(rows) or row != rows[i]]
        if not changed and before.shape == shape:
            return before
        array = np.zeros(shape, dtype=np.int32)
        height, width = map(min, shape, before.shape)
        array[:height, :width] = before[:height, :width]
        self._array, self._rows = array, [*rows[: len(blocks)], *[[]] * (len(blocks) - len(rows))]
        places = {id(given): place for place, given in enumerate(self._given)}
        moved: list[tuple[int, int]] = []
        for i in changed:
            row, place = blocks[i], places.get(id(blocks[i]))
            if place is not None and rows[place] == row:
                self._rows[i] = rows[place]
                moved.append((i, place))
            else:
                self._rows[i] = list(row)
                array[i, : len(row)] = row
                array[i, len(row) :] = 0
        if moved:
            to, place_of = map(list, zip(*moved, strict=True))
            array[to, :width] = before[place_of, :width]
        self._given = list(blocks)
        return array
