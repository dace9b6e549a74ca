"""How long the rows of a file are in tokens and what of them is learnt: `python -m` this module.

A question comes as one line of JSON on the standard input; lines of JSON go to the standard output,
the first after the first rows, the last one when all are counted. Rows are read as a run would read
them, with the base model's tokenizer, in a process of their own with the limits of `check`.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gossamer.jobs.files.check import give_way, limit_process

FIRST_ROWS = 1000
"""Rows that the first answer is about."""
ANSWER_SECONDS = 2.0
"""Between two answers on the way."""


def main() -> int:
    """Answer one question."""
    question = json.loads(sys.stdin.readline())
    # Before the limits, which let nothing be written: libraries try out a folder for temporary
    # files when they are loaded. What a stranger wrote is not read yet.
    from gossamer.basemodel.load import load_tokenizer
    from gossamer.errors import GossamerError

    try:
        tokenizer = load_tokenizer(Path(question["model"]))
        limit_process(question["max_bytes"], question["max_seconds"])
        for number, found in enumerate(counts(Path(question["path"]), question["name"], tokenizer)):
            print(json.dumps(found), flush=True)
            if not number:
                give_way()
    except GossamerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except MemoryError:
        print(json.dumps({"error": "the rows need too much memory to be counted"}), flush=True)
    return 0


def counts(path: Path, name: str, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Count the tokens of the usable rows of the file `path`, called `name` by its owner.

    Yields what is known after the first rows, then from time to time, and at last of all rows:
    `lengths`, how many rows have how many tokens before cutting (of a pair the longer side);
    `tokens`, all of them; `learnt`, those that count in the loss; `short_answers`, the rows of
    which at most one token but the end is learnt; and `is_all`, whether these are all rows. Raises
    `GossamerError` for a file that cannot be read and a tokenizer that cannot render its rows.
    """
    from gossamer.jobs.files.report import open_rows
    from gossamer.training.data.check import check_row
    from gossamer.training.data.encode import ExampleEncoder
    from gossamer.training.data.formats import detect_format
    from gossamer.training.data.render import Renderer, require_template
    from gossamer.training.data.rows import Row, RowProblem
    from gossamer.training.data.settings import DataSettings

    source = open_rows(path, name)
    with closing(source.rows) as stream:
        first = list(islice(stream, FIRST_ROWS))
        rows = [row for row in first if isinstance(row, Row)]
        columns = list(dict.fromkeys(column for row in rows for column in row.values))
        fmt = detect_format(columns, "auto", name)
        if fmt != "text":
            require_template(tokenizer)
        renderer = Renderer(tokenizer, DataSettings(data=name))
        encoder, count = ExampleEncoder(tokenizer), _Count()
        every = chain(first, stream)
        due = 0.0
        while batch := list(islice(every, FIRST_ROWS)):
            if count.rows and time.monotonic() >= due:
                yield count.answer(is_all=False)
                due = time.monotonic() + ANSWER_SECONDS
            rendered = []
            for row in batch:
                if not isinstance(row, Row):
                    continue
                try:
                    rendered.append(renderer.render_sides(check_row(row.values, fmt)))
                except RowProblem:
                    continue  # The check of the file has told of it.
            encoded = iter(encoder.encode([side for sides in rendered for side in sides]))
            for sides in rendered:
                count.add([next(encoded) for _ in sides])
    yield count.answer(is_all=True)


class _Count:
    """Sums over rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._lengths: Counter[int] = Counter()
        self._tokens = self._learnt = self._short = 0

    def add(self, sides: list[Any]) -> None:
        self.rows += 1
        longest = max(len(side.input_ids) for side in sides)
        self._lengths[longest] += 1
        self._tokens += longest
        learnt = [side.trained_tokens for side in sides]
        self._learnt += sum(learnt)
        self._short += min(learnt) <= 2

    def answer(self, *, is_all: bool) -> dict[str, Any]:
        return {
            "is_all": is_all,
            "rows": self.rows,
            "lengths": sorted(self._lengths.items()),
            "tokens": self._tokens,
            "learnt": self._learnt,
            "short_answers": self._short,
        }


if __name__ == "__main__":
    sys.exit(main())
