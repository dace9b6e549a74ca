"""The tables of adapters side by side in a few arrays, where steps find them by slot.

Kernels take arrays, one for all adapters of a step. To put them together for each step would cost
milliseconds as soon as one of sixty adapters is another one; here an adapter that comes is copied
in, and the others stay where they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Table = TypeVar("Table")
Tables = TypeVar("Tables")

_SPARE = 4
"""The arrays are made for this many times what is needed then, so that they are rarely made."""
_SPARE_BYTES = 32 * 2**20
"""The most room for rows that is made beyond: tables of sparse changes take megabytes each."""


class TableArena(Generic[Table, Tables]):
    """Keeps tables that steps have used lately. One thread calls it.

    `make` takes the arrays by name; they are the fields of a table with a dimension more. `modules`
    are arrays of the same shape in every table, `numbers` one number of each, and `rows` arrays of
    any length, all of one length in a table: they lie one behind the other. The field `pointer`
    among the `modules` holds places in those.
    """

    def __init__(
        self,
        make: Callable[..., Tables],
        *,
        modules: Sequence[str],
        numbers: Mapping[str, Callable[[Table], Any]],
        rows: Sequence[str] = (),
        pointer: str | None = None,
    ) -> None:
        self._make = make
        self._modules = tuple(modules)
        self._numbers = dict(numbers)
        self._rows = tuple(rows)
        self._pointer = pointer
        # By identity, the one used longest ago first; each with its slot and where its rows begin.
        self._held: dict[int, tuple[Table, int, int]] = {}
        self._free_slots: list[int] = []
        self._free_rows: list[tuple[int, int]] = []
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._tables: Tables | None = None

    @property
    def tables(self) -> Tables:
        """Return the arrays, to be indexed by slot."""
        assert self._tables is not None, "no table was asked for"
        return self._tables

    def slots(self, wanted: Sequence[Table]) -> list[int]:
        """Return the slot of each table, where it stays at least until the next call."""
        for table in wanted:
            if (entry := self._held.pop(id(table), None)) is not None:
                self._held[id(table)] = entry
        for table in wanted:
            if id(table) not in self._held and not self._take_in(table, wanted):
                self._make_arrays(wanted)
        return [self._held[id(table)][1] for table in wanted]

    def stack(self, wanted: Sequence[Table]) -> Tables:
        """Return the arrays with `wanted` in them; in an empty arena each slot is its place."""
        self.slots(wanted)
        return self.tables

    def _take_in(self, table: Table, wanted: Sequence[Table]) -> bool:
        """Copy a table in, in the place of some that are not wanted if need be; tell if it fits."""
        size = self._size(table)
        others: list[int] | None = None
        while not self._free_slots or (start := self._find(size)) is None:
            if others is None:
                kept = {id(each) for each in wanted}
                others = [key for key in reversed(self._held) if key not in kept]
            if not others:
                return False
            self._drop(others.pop())
        self._copy(table, self._free_slots.pop(), start)
        return True

    def _find(self, size: int) -> int | None:
        """Take `size` free rows that lie side by side, or none."""
        if size == 0:
            return 0
        for index, (start, length) in enumerate(self._free_rows):
            if length >= size:
                self._free_rows[index] = (start + size, length - size)
                return start
        return None

    def _drop(self, key: int) -> None:
        table, slot, start = self._held.pop(key)
        self._free_slots.append(slot)
        if size := self._size(table):
            merged: list[tuple[int, int]] = []
            for low, length in sorted([*self._free_rows, (start, size)]):
                if merged and sum(merged[-1]) == low:
                    merged[-1] = (merged[-1][0], merged[-1][1] + length)
                elif length:
                    merged.append((low, length))
            self._free_rows = merged

    def _copy(self, table: Table, slot: int, start: int) -> None:
        for name in self._modules:
            self._arrays[name][slot] = getattr(table, name)
        for name, number in self._numbers.items():
            self._arrays[name][slot] = number(table)
        for name in self._rows:
            values = getattr(table, name)
            self._arrays[name][start : start + len(values)] = values
        if self._pointer is not None:
            self._arrays[self._pointer][slot] += start
        self._held[id(table)] = (table, slot, start)

    def _make_arrays(self, wanted: Sequence[Table]) -> None:
        """Make arrays with room for several times the tables that are wanted, and put those in."""
        unique = list({id(table): table for table in wanted}.values())
        num_slots = _SPARE * len(unique)
        first = unique[0]
        needed = sum(map(self._size, unique))
        row_bytes = sum(getattr(first, name).itemsize for name in self._rows)
        num_rows = needed + min((_SPARE - 1) * needed, _SPARE_BYTES // max(1, row_bytes))
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in self._modules:
            example = getattr(first, name)
            arrays[name] = np.zeros((num_slots, *example.shape), dtype=example.dtype)
        for name, number in self._numbers.items():
            arrays[name] = np.zeros(num_slots, dtype=np.asarray(number(first)).dtype)
        for name in self._rows:
            arrays[name] = np.zeros(num_rows, dtype=getattr(first, name).dtype)
        self._arrays = arrays
        self._tables = self._make(**arrays)
        self._held.clear()
        self._free_slots = list(range(num_slots))[::-1]
        self._free_rows = [(0, num_rows)]
        for table in unique:
            self._take_in(table, unique)

    def _size(self, table: Table) -> int:
        return len(getattr(table, self._rows[0])) if self._rows else 0
