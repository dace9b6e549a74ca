"""Loads training data: reads, checks, renders and encodes rows, and holds some out."""

import random
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.check import check_row
from gossamer.training.data.encode import Example, ExampleEncoder, PreferencePair, cut
from gossamer.training.data.formats import detect_format, ignored_columns
from gossamer.training.data.lazy import LazyRows, first_columns, open_store
from gossamer.training.data.render import Rendered, Renderer, require_template
from gossamer.training.data.report import DataReport, EncodedData
from gossamer.training.data.rows import BadRow, Row, RowProblem
from gossamer.training.data.settings import DataSettings
from gossamer.training.data.source import open_source
from gossamer.training.data.tally import BadRowTally

_BATCH_ROWS = 1000


def load_data(settings: DataSettings, tokenizer: Any, *, seed: int) -> EncodedData:
    """Read, check and encode the rows that `settings` name.

    The same settings, files and `seed` give the same examples; `seed` only chooses which rows are
    held out. Raises `DataError` for data that cannot be used, with file and line, and
    `UnsupportedModelError` if the tokenizer lacks a chat template or an end-of-text token.
    """
    if settings.lazy_data:
        return _load_lazily(settings, tokenizer, seed)
    examples, report = _load(settings.data, settings, tokenizer, settings.max_rows)
    if settings.eval_data is not None:
        held_out, eval_report = _load(settings.eval_data, settings, tokenizer, None)
        return EncodedData(examples, held_out, report, eval_report)
    train, held_out = _split(examples, settings.eval_split, seed, settings.data)
    return EncodedData(train, held_out, report)


def _load(
    name: str, settings: DataSettings, tokenizer: Any, max_rows: int | None
) -> tuple[list[Any], DataReport]:
    source = open_source(name, max_rows=max_rows)
    tally = BadRowTally(source.where, settings.skip_bad_rows)
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


def _load_lazily(settings: DataSettings, tokenizer: Any, seed: int) -> EncodedData:
    """The rows of `data` unread, but for a check of each; held-out ones as ever."""
    name = settings.data
    store = open_store(name, settings.max_rows)
    tally = BadRowTally(lambda number: f"{name}, {store.unit} {number}", settings.skip_bad_rows)
    columns = first_columns(store)
    fmt = detect_format(columns, settings.data_format, name)
    _check_template(fmt, settings, tokenizer, name)
    tools = (Renderer(tokenizer, settings), ExampleEncoder(tokenizer), tally)
    rows = LazyRows(store, fmt, *tools, max_length=settings.max_length).checked()
    if not rows:
        raise DataError(_no_rows_message(name, tally))
    report = DataReport(
        source=name,
        format=fmt,
        rows_read=len(rows) + tally.count,
        rows_used=len(rows),
        bad_rows=tally.count,
        problems=tuple(tally.problems),
        max_length=settings.max_length,
        ignored_columns=tuple(ignored_columns(columns, fmt)),
        lazy=True,
    )
    if settings.eval_data is not None:
        held_out, eval_report = _load(settings.eval_data, settings, tokenizer, None)
        return EncodedData(rows, held_out, report, eval_report)
    chosen = _chosen(len(rows), settings.eval_split, seed, name)
    kept = rows.only(place for n, place in enumerate(rows.places) if n not in chosen)
    held = rows.only(place for n, place in enumerate(rows.places) if n in chosen)
    return EncodedData(kept, held[:], report)


def _readable(rows: Iterable[Row | BadRow], tally: BadRowTally) -> tuple[list[Row], int]:
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


def _rendered(
    rows: list[Row], fmt: str, renderer: Renderer, tally: BadRowTally
) -> list[tuple[Rendered, ...]]:
    result = []
    for row in rows:
        try:
            result.append(renderer.render_sides(check_row(row.values, fmt)))
        except RowProblem as problem:
            tally.add(row.number, str(problem))
    return result


def _encoded(
    rendered: list[tuple[Rendered, ...]], encoder: ExampleEncoder, report: DataReport
) -> tuple[list[Any], DataReport]:
    """Cut examples to the maximum length, leave out those with nothing to learn, and count.

    A row is an example, or a pair of which both have something to learn.
    """
    kept: list[Example | PreferencePair] = []
    longest = truncated = dropped = 0
    for start in range(0, len(rendered), _BATCH_ROWS):
        rows = rendered[start : start + _BATCH_ROWS]
        encoded = iter(encoder.encode([side for row in rows for side in row]))
        for row in rows:
            whole = [next(encoded) for _ in row]
            length = max(len(side.input_ids) for side in whole)
            longest = max(longest, length)
            sides = [cut(side, report.max_length) for side in whole]
            if not all(side.trained_tokens for side in sides):
                dropped += 1
                continue
            truncated += length > report.max_length
            kept.append(PreferencePair(sides[0], sides[1]) if len(sides) == 2 else sides[0])
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
        tokens=sum(len(side.input_ids) for row in kept for side in row.sides),
        trained_tokens=sum(side.trained_tokens for row in kept for side in row.sides),
    )


def _split(examples: list[Any], wanted: float, seed: int, name: str) -> tuple[list[Any], list[Any]]:
    """Split rows into (train, held out), in the file's order; `wanted` is a share or a count."""
    chosen = _chosen(len(examples), wanted, seed, name)
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, held_out


def _chosen(total: int, wanted: float, seed: int, name: str) -> set[int]:
    """The numbers of the rows to hold out."""
    count = int(wanted) if wanted >= 1 else round(total * wanted)
    if wanted:
        count = max(count, 1)
    if wanted and count >= total:
        raise DataError(
            f"'{name}' has {total} usable rows; eval_split={wanted} would leave none to train on"
        )
    return set(random.Random(seed).sample(range(total), count))


def _no_rows_message(name: str, tally: BadRowTally) -> str:
    if not tally.count:
        return f"'{name}' has no rows"
    return f"'{name}' has no usable row; {tally.count} are bad, the first: {tally.problems[0]}"
