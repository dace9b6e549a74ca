"""What is in a file of rows: how many, of which format, and what is wrong with the first bad ones.

Only the readers of `gossamer.training.data` are used, so that a file is judged here as a run will
judge it; no model and no tokenizer is loaded.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import MAX_CUT, DataError, one_line
from gossamer.jobs.files import REPORT_VERSION
from gossamer.jobs.files.likeness import Likeness
from gossamer.training.data.check import check_row
from gossamer.training.data.files import READERS
from gossamer.training.data.formats import detect_format, ignored_columns
from gossamer.training.data.rows import BadRow, Row, RowProblem, Source

MAX_ROWS = 2_000_000
MAX_PROBLEMS = 50
MAX_COLUMNS = 1000
FIRST_ROWS = 1000
"""Rows whose columns tell the format, and of which the first report is."""
REPORT_SECONDS = 1.0
"""Between two reports on the way through a long file."""

FUNCTIONS = ("functions", "function_call")
"""OpenAI's former way of saying `tools`."""
OPENAI_PAIR = ("preferred_output", "non_preferred_output")

Report = dict[str, Any]


def failed(reason: str) -> Report:
    """Report on a file of which nothing can be used."""
    return {"version": REPORT_VERSION, "error": reason}


def report_on(path: Path, name: str) -> Report:
    """Read the file `path`, which its owner calls `name`, and report on all its rows."""
    *_, last = reports_on(path, name)
    return last


def reports_on(path: Path, name: str) -> Iterator[Report]:
    """Report on the first rows of a file, then from time to time on more, at last on all.

    Only the last report is `complete`, or tells of an `error`.
    """
    try:
        yield from _reports(open_rows(path, name))
    except DataError as error:
        yield failed(str(error))
    except OSError as error:
        yield failed(f"'{name}' cannot be read: {error.strerror or error}")


def open_rows(path: Path, name: str) -> Source:
    """Open the rows of a blob, which has no ending of its own; raises `DataError` or `OSError`."""
    reader = READERS.get(PurePosixPath(name).suffix.lower())
    if reader is None:
        raise DataError(f"'{name}' cannot be read; known endings: {', '.join(READERS)}")
    if not path.stat().st_size:
        raise DataError(f"'{name}' is empty")
    return reader(name, path)


def _reports(source: Source) -> Iterator[Report]:
    first: list[Row | BadRow] = []
    with closing(source.rows) as rows:
        for row in rows:
            first.append(row)
            if len(first) == FIRST_ROWS:
                break
        columns = dict.fromkeys(c for row in first if isinstance(row, Row) for c in row.values)
        _refuse_columns(source.name, list(columns))
        count = _Count(source, _format_of(source, list(columns), first))
        due = 0.0
        for number, row in enumerate(chain(first, rows), start=1):
            if number > FIRST_ROWS and time.monotonic() >= due:
                yield count.report(complete=False)
                due = time.monotonic() + REPORT_SECONDS
            count.add(row)
    yield count.report(complete=True)


def _refuse_columns(name: str, columns: list[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"'{name}' has more than {MAX_COLUMNS} columns")
    if set(OPENAI_PAIR) <= set(columns):
        raise DataError(
            f"'{name}' has rows with {' and '.join(OPENAI_PAIR)}, which are not read yet; write "
            "them as prompt, chosen and rejected"
        )


def _format_of(source: Source, columns: list[str], first: list[Row | BadRow]) -> str:
    bad = [row for row in first if isinstance(row, BadRow)]
    if not first:
        raise DataError(f"'{source.name}' has no rows")
    if len(bad) == len(first):
        raise DataError(f"{source.where(bad[0].number)}: {bad[0].reason}")
    return detect_format(columns, "auto", source.name)


class _Count:
    """Counts the rows of one file."""

    def __init__(self, source: Source, fmt: str) -> None:
        self._source = source
        self._format = fmt
        self._read = self._bad = 0
        self._problems: list[Report] = []
        self._likeness = Likeness()
        self._columns: set[str] = set()

    def add(self, row: Row | BadRow) -> None:
        """Count one row; raises `DataError` for too many."""
        self._read += 1
        if self._read > MAX_ROWS:
            raise DataError(f"'{self._source.name}' has more than {MAX_ROWS:,} rows; split it")
        if isinstance(row, BadRow):
            self._note(row.number, row.reason, "")
            return
        self._columns.update(list(row.values)[:MAX_COLUMNS])
        try:
            _refuse_functions(row.values)
            sample = check_row(row.values, self._format)
        except RowProblem as problem:
            self._note(row.number, str(problem), json.dumps(row.values, default=str))
            return
        self._likeness.add(self._read, row.number, sample)

    def _note(self, number: int, reason: str, text: str) -> None:
        self._bad += 1
        if len(self._problems) < MAX_PROBLEMS:
            shown = one_line(text, MAX_CUT)
            problem = {"row": number, "at": self._read, "reason": one_line(reason)}
            self._problems.append({**problem, "text": shown})

    def report(self, *, complete: bool) -> Report:
        """What was found up to here; only of all rows it can be that none will do."""
        used = self._read - self._bad
        found = {
            "version": REPORT_VERSION,
            "format": self._format,
            "unit": self._source.unit,
            "complete": complete,
            "rows": {"read": self._read, "used": used, "bad": self._bad},
            "problems": self._problems,
            **self._likeness.report(),
            "ignored_columns": ignored_columns(self._columns, self._format)[:MAX_COLUMNS],
        }
        if complete and not used:
            found["error"] = f"no row of the {self._read} can be used; {self.first_problem()}"
        return found

    def first_problem(self) -> str:
        """The first problem, with its row."""
        first = self._problems[0]
        return f"{self._source.where(first['row'])}: {first['reason']}"


def _refuse_functions(values: dict[str, Any]) -> None:
    for name in FUNCTIONS:
        if values.get(name):
            raise RowProblem(f"'{name}' is not learnt from; say it with 'tools' and 'tool_calls'")
