"""Rows that are read and encoded when they are asked for, so that data may be larger than memory.

Of a file of JSON lines only the places of its good lines are kept, eight bytes each; Parquet files
and data sets of the hub are what the `datasets` library maps from disk. Any row can be had at any
time, so a run sees rows in the same order as with all of them in memory, and resumes the same way.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, overload

from gossamer.errors import DataError
from gossamer.training.data.check import check_row
from gossamer.training.data.encode import (
    NO_LOSS,
    Example,
    ExampleEncoder,
    PreferencePair,
    cut,
    is_learnt_from,
)
from gossamer.training.data.files import open_file, parse_line
from gossamer.training.data.prints import Sieve
from gossamer.training.data.render import Renderer
from gossamer.training.data.rows import BadRow, Row, RowProblem
from gossamer.training.data.source import find_file, load_hub
from gossamer.training.data.tally import BadRowTally

_LOOKED_AT = 1000
"""Rows whose columns tell the format."""
_NOTHING = Example([0], [NO_LOSS])
"""Stands in the place of a row that is left out: a token that nothing is learnt from."""
_NO_PAIR = PreferencePair(_NOTHING, _NOTHING)
"""A pair in whose place nothing is learnt, as with `_NOTHING`."""


class Store(Protocol):
    """Raw rows by their place, from 0."""

    unit: str

    def __len__(self) -> int: ...

    def raw(self, index: int) -> Row | BadRow:
        """The row at `index`; `DataError` if the file has gone or changed."""


class JsonLines:
    """The lines of a file, blank ones left out."""

    unit = "line"

    def __init__(self, name: str, path: Path, max_rows: int | None) -> None:
        self._name, self._path = name, path
        self._places, self._numbers = self._scan(max_rows)

    def __len__(self) -> int:
        return len(self._places)

    def raw(self, index: int) -> Row | BadRow:
        try:
            # Opened for each row: what reads may be another process than what was made here.
            with self._path.open("rb") as file:
                file.seek(self._places[index])
                return parse_line(self._numbers[index], file.readline())
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"'{self._name}' cannot be read: {reason}") from None

    def _scan(self, max_rows: int | None) -> tuple["array[int]", "array[int]"]:
        """Where each line begins, in bytes, and its number."""
        places, numbers = array("q"), array("q")
        place = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if len(places) == max_rows:
                    break
                if line.strip():
                    places.append(place)
                    numbers.append(number)
                place += len(line)
        return places, numbers


class Mapped:
    """The rows of a data set that the `datasets` library maps from disk."""

    unit = "row"

    def __init__(self, dataset: Any, max_rows: int | None) -> None:
        self._dataset = dataset
        self._count = len(dataset) if max_rows is None else min(max_rows, len(dataset))

    def __len__(self) -> int:
        return self._count

    def raw(self, index: int) -> Row | BadRow:
        return Row(index + 1, dict(self._dataset[index]))


def open_store(name: str, max_rows: int | None) -> Store:
    """The rows that `name` stands for, unread. Raises `DataError`."""
    path = find_file(name)
    if path is None:
        return Mapped(load_hub(name), max_rows)
    if path.suffix.lower() == ".jsonl":
        return JsonLines(name, path, max_rows)
    if path.suffix.lower() == ".parquet":
        return Mapped(_mapped_parquet(name, path), max_rows)
    raise DataError(
        f"'{name}': lazy_data reads .jsonl and .parquet files and data sets of the hub; convert "
        "it, or leave lazy_data out"
    )


def _mapped_parquet(name: str, path: Path) -> Any:
    import datasets

    # Says what is wrong with a damaged file before the library does.
    with closing(open_file(name, path).rows) as rows:
        next(rows, None)
    return datasets.load_dataset("parquet", data_files=str(path), split="train")


class LazyRows(Sequence[Any]):
    """Examples or pairs, made when they are asked for.

    A row without anything to learn in its first `max_length` tokens, or a pair of which a side is
    one, counts in no loss, for where it stands the order of the rows has a place.
    """

    def __init__(
        self,
        store: Store,
        fmt: str,
        renderer: Renderer,
        encoder: ExampleEncoder,
        tally: BadRowTally,
        *,
        max_length: int,
        places: Iterable[int] | None = None,
    ) -> None:
        self._store, self._format = store, fmt
        self._renderer, self._encoder, self._tally = renderer, encoder, tally
        self._max_length = max_length
        self._places = array("q", range(len(store)) if places is None else places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._read(place) for place in self._places[index]]
        return self._read(self._places[index])

    def checked(self, sieve: Sieve) -> "LazyRows":
        """The rows that `sieve` lets through, without malformed ones, which are counted, or the
        first of which raises `DataError`: each is read and checked, though not encoded."""
        return self.only(self._good(sieve))

    def only(self, places: Iterable[int]) -> "LazyRows":
        """The rows at these places among all of the store."""
        return LazyRows(
            self._store,
            self._format,
            self._renderer,
            self._encoder,
            self._tally,
            max_length=self._max_length,
            places=places,
        )

    @property
    def places(self) -> Sequence[int]:
        """Where the rows stand among all of the store."""
        return self._places

    def _good(self, sieve: Sieve) -> Iterator[int]:
        for place in self._places:
            row = self._store.raw(place)
            try:
                if isinstance(row, BadRow):
                    raise RowProblem(row.reason)
                sample = check_row(row.values, self._format)
            except RowProblem as problem:
                self._tally.add(row.number, str(problem))
            else:
                if sieve.keeps(row.number, sample):
                    yield place

    def _read(self, place: int) -> Example | PreferencePair:
        row = self._store.raw(place)
        try:
            if isinstance(row, BadRow):
                raise RowProblem(row.reason)
            rendered = self._renderer.render_sides(check_row(row.values, self._format))
        except RowProblem as problem:
            self._tally.add(row.number, str(problem))
            return _NO_PAIR if self._format == "preference" else _NOTHING
        sides = [cut(side, self._max_length) for side in self._encoder.encode(rendered)]
        if len(sides) == 1:
            return sides[0]
        return PreferencePair(sides[0], sides[1]) if is_learnt_from(sides) else _NO_PAIR


def first_columns(store: Store) -> list[str]:
    """The columns of the first rows, in the order of their first appearance."""
    rows = (store.raw(index) for index in islice(range(len(store)), _LOOKED_AT))
    return list(dict.fromkeys(c for row in rows if isinstance(row, Row) for c in row.values))
