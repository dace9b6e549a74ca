"""How alike the rows of a file are: to one another, and to those of another file."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any

from gossamer.errors import MAX_CUT, one_line
from gossamer.training.data.check import Conversation, Preference, Sample, check_row
from gossamer.training.data.formats import detect_format
from gossamer.training.data.prints import answer_of, row_print
from gossamer.training.data.rows import Row, RowProblem, Source

MAX_LISTED = 50
"""Rows of each kind that are named."""
MAX_ANSWERS = 100_000
"""Different answers that are counted; what repeats often comes up among these."""
OFTEN = 0.05
"""An answer of more than this share of the rows is told of."""
FEW = 5
"""The fewest rows among which an answer can repeat often."""
FIRST_ROWS = 1000
"""Rows whose columns tell the format."""

Found = dict[str, Any]


class Likeness:
    """Counts what repeats among the usable rows of a file, in their order."""

    def __init__(self) -> None:
        self._whole: dict[bytes, int] = {}
        self._rough: dict[bytes, int] = {}
        self._duplicates: list[Found] = []
        self._near: list[Found] = []
        self._counts = {"duplicates": 0, "near_duplicates": 0}
        self._rows = 0
        self._answers: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()
        self._system: set[int] = set()

    def add(self, at: int, number: int, sample: Sample) -> None:
        """Take note of the row at a place, counted from 1, that errors call by `number`."""
        self._rows += 1
        found = row_print(sample)
        if (first := self._whole.setdefault(found.whole, number)) != number:
            self._repeats("duplicates", self._duplicates, at, number, first)
        elif (first := self._rough.setdefault(found.rough, number)) != number:
            self._repeats("near_duplicates", self._near, at, number, first)
        answer = answer_of(sample).strip()[:MAX_CUT]
        if answer in self._answers or len(self._answers) < MAX_ANSWERS:
            self._answers[answer] += 1
        for side in _conversations(sample):
            self._roles.update(message["role"] for message in side.messages)
            self._system |= {hash(m["content"]) for m in side.messages if m["role"] == "system"}

    def _repeats(self, kind: str, listed: list[Found], at: int, number: int, first: int) -> None:
        self._counts[kind] += 1
        if len(listed) < MAX_LISTED:
            listed.append({"row": number, "at": at, "of": first})

    def report(self) -> Found:
        """Counts, the first rows of each kind with the row that they repeat, and answers that
        stand in many rows."""
        often = [
            {"text": one_line(text), "rows": rows}
            for text, rows in self._answers.most_common(FEW)
            if rows > 1 and rows > OFTEN * self._rows >= OFTEN * FEW
        ]
        return {
            **self._counts,
            "duplicate_rows": self._duplicates,
            "near_duplicate_rows": self._near,
            "repeated_answers": often,
            "roles": dict(self._roles),
            "system_prompts": len(self._system),
        }


def overlap(source: Source, held_out: Source) -> Found:
    """Find the rows of `source` that `held_out` has too, and those that ask what it asks.

    `rows` says the same word for word; `prompts` asks the same but for case, space and punctuation,
    with the first of them `listed`. Raises `DataError`.
    """
    whole, prompts = set[bytes](), set[bytes]()
    for _, _, sample in _samples(held_out):
        found = row_print(sample)
        whole.add(found.whole)
        prompts.add(found.prompt)
    counts = {"rows": 0, "prompts": 0}
    listed: list[Found] = []
    for at, number, sample in _samples(source):
        found = row_print(sample)
        counts["rows"] += found.whole in whole
        if found.prompt in prompts:
            counts["prompts"] += 1
            if len(listed) < MAX_LISTED:
                listed.append({"row": number, "at": at})
    return {**counts, "listed": listed}


def _samples(source: Source) -> Iterator[tuple[int, int, Sample]]:
    """The usable rows: (place, number, sample)."""
    with closing(source.rows) as rows:
        first = list(islice(rows, FIRST_ROWS))
        columns = dict.fromkeys(c for row in first if isinstance(row, Row) for c in row.values)
        fmt = detect_format(list(columns), "auto", source.name)
        for at, row in enumerate(chain(first, rows), start=1):
            if not isinstance(row, Row):
                continue
            try:
                yield at, row.number, check_row(row.values, fmt)
            except RowProblem:
                continue  # The report of that file tells of it.


def _conversations(sample: Sample) -> list[Conversation]:
    sides = [sample.chosen, sample.rejected] if isinstance(sample, Preference) else [sample]
    return [side for side in sides if isinstance(side, Conversation)]
