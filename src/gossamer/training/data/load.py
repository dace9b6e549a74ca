"""Loads training data: reads, checks, renders and encodes rows, and holds some out."""

import random
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.check import check_row
from gossamer.training.data.encode import Example, ExampleEncoder, cut
from gossamer.training.data.formats import detect_format, ignored_columns
from gossamer.training.data.render import Rendered, Renderer, require_template
from gossamer.training.data.report import DataReport, EncodedData
from gossamer.training.data.rows import BadRow, Row, RowProblem, Source
from gossamer.training.data.settings import DataSettings
from gossamer.training.data.source import open_source

_PROBLEMS_KEPT = 5
_BATCH_ROWS = 1000


def load_data(settings: DataSettings, tokenizer: Any, *, seed: int) -> EncodedData:
    """Read, check and encode the rows that `settings` name.

    The same settings, files and `seed` give the same examples; `seed` only chooses which rows are
    held out. Raises `DataError` for data that cannot be used, with file and line, and
    `UnsupportedModelError` if the tokenizer lacks a chat template or an end-of-text token.
    """
    examples, report = _load(settings.data, settings, tokenizer, settings.max_rows)
    if settings.eval_data is not None:
        held_out, eval_report = _load(settings.eval_data, settings, tokenizer, None)
        return EncodedData(examples, held_out, report, eval_report)
    train, held_out = _split(examples, settings.eval_split, seed, settings.data)
    return EncodedData(train, held_out, report)


@dataclass
class _Tally:
    """Counts bad rows; the first raises unless they are to be skipped."""

    source: Source
    skip: bool
    count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        problem = f"{self.source.where(number)}: {reason}"
        if not self.skip:
            raise DataError(f"{problem} (--skip-bad-rows leaves such rows out)")
        self.count += 1
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(problem)


def _load(
    name: str, settings: DataSettings, tokenizer: Any, max_rows: int | None
) -> tuple[list[Example], DataReport]:
    source = open_source(name, max_rows=max_rows)
    tally = _Tally(source, settings.skip_bad_rows)
    with closing(source.rows) as stream:
        rows, rows_read = _readable(islice(stream, max_rows), tally)
    if not rows:
        raise DataError(_no_rows_message(name, tally))
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    fmt = detect_format(columns, settings.data_format, name)
    _check_template(fmt, settings, tokenizer, name)
    rendered = _rendered(rows, fmt, Renderer(tokenizer, settings), tally)
    if not rendered:
        raise DataError(_no_rows_message(name, tally))
    report = DataReport(
        source=name,
        format=fmt,
        rows_read=rows_read,
        rows_used=0,
        bad_rows=tally.count,
        problems=tuple(tally.problems),
        max_length=settings.max_length,
        ignored_columns=tuple(ignored_columns(columns, fmt)),
    )
    return _encoded(rendered, ExampleEncoder(tokenizer), report)


def _readable(rows: Iterable[Row | BadRow], tally: _Tally) -> tuple[list[Row], int]:
    good: list[Row] = []
    for row in rows:
        if isinstance(row, BadRow):
            tally.add(row.number, row.reason)
        else:
            good.append(row)
    return good, len(good) + tally.count


def _check_template(fmt: str, settings: DataSettings, tokenizer: Any, name: str) -> None:
    if fmt == "text":
        return
    if settings.chat_template:
        require_template(tokenizer)
    elif fmt == "messages":
        raise DataError(
            f"'{name}' holds conversations, which need the chat template; leave chat_template at "
            "true, or give prompt and completion as strings"
        )


def _rendered(rows: list[Row], fmt: str, renderer: Renderer, tally: _Tally) -> list[Rendered]:
    result = []
    for row in rows:
        try:
            result.append(renderer.render(check_row(row.values, fmt)))
        except RowProblem as problem:
            tally.add(row.number, str(problem))
    return result


def _encoded(
    rendered: list[Rendered], encoder: ExampleEncoder, report: DataReport
) -> tuple[list[Example], DataReport]:
    """Cut examples to the maximum length, leave out those with nothing to learn, and count."""
    kept: list[Example] = []
    longest = truncated = dropped = 0
    for start in range(0, len(rendered), _BATCH_ROWS):
        for full in encoder.encode(rendered[start : start + _BATCH_ROWS]):
            longest = max(longest, len(full.input_ids))
            example = cut(full, report.max_length)
            if not example.trained_tokens:
                dropped += 1
                continue
            truncated += len(full.input_ids) > report.max_length
            kept.append(example)
    if not kept:
        raise DataError(
            f"'{report.source}': no row has a token to learn within max_length="
            f"{report.max_length}; the longest row has {longest} tokens; raise max_length"
        )
    return kept, replace(
        report,
        rows_used=len(kept),
        truncated=truncated,
        dropped=dropped,
        longest=longest,
        tokens=sum(len(example.input_ids) for example in kept),
        trained_tokens=sum(example.trained_tokens for example in kept),
    )


def _split(
    examples: list[Example], wanted: float, seed: int, name: str
) -> tuple[list[Example], list[Example]]:
    """Split rows into (train, held out), in the file's order; `wanted` is a share or a count."""
    total = len(examples)
    count = int(wanted) if wanted >= 1 else round(total * wanted)
    if wanted:
        count = max(count, 1)
    if wanted and count >= total:
        raise DataError(
            f"'{name}' has {total} usable rows; eval_split={wanted} would leave none to train on"
        )
    chosen = set(random.Random(seed).sample(range(total), count))
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, held_out


def _no_rows_message(name: str, tally: _Tally) -> str:
    if not tally.count:
        return f"'{name}' has no rows"
    return f"'{name}' has no usable row; {tally.count} are bad, the first: {tally.problems[0]}"
