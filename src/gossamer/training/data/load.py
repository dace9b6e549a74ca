"""Loads training data: reads, checks, renders and encodes rows, and holds some out."""

import random
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.check import Sample, check_row
from gossamer.training.data.encode import (
    Example,
    ExampleEncoder,
    PreferencePair,
    cut,
    is_learnt_from,
)
from gossamer.training.data.formats import detect_format, ignored_columns
from gossamer.training.data.lazy import LazyRows, first_columns, open_store
from gossamer.training.data.prints import Sieve, row_print
from gossamer.training.data.render import Rendered, Renderer, require_template
from gossamer.training.data.report import DataReport, EncodedData
from gossamer.training.data.rows import BadRow, Row, RowProblem, Source
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
    held_out, eval_report, prompts = _load_held_out(settings, tokenizer)
    sieve = Sieve(settings.leave_out, prompts)
    if settings.lazy_data:
        return _load_lazily(settings, tokenizer, seed, sieve, held_out, eval_report)
    examples, report = _load(settings.data, settings, tokenizer, settings.max_rows, sieve)
    if eval_report is not None:
        return EncodedData(examples, held_out, report, eval_report)
    train, held_out = _split(examples, settings.eval_split, seed, settings.data)
    return EncodedData(train, held_out, report)


def read_rows(settings: DataSettings, tokenizer: Any) -> tuple[Source, list[Row], DataReport]:
    """Read the rows of `data` that `load_data` would encode, for who shares them out as they are.

    They are checked and sifted as there, and none is held out; the report counts no tokens. Raises
    what `load_data` raises for rows that cannot be used.
    """
    prompts = set[bytes]()
    if settings.eval_data is not None and "held-out" in settings.leave_out:
        _read(settings.eval_data, settings, tokenizer, None, _Listening(prompts))
    sieve = Sieve(settings.leave_out, prompts)
    source, kept, report = _read(settings.data, settings, tokenizer, settings.max_rows, sieve)
    return source, [row for row, _ in kept], replace(report, rows_used=len(kept))


def _load_held_out(
    settings: DataSettings, tokenizer: Any
) -> tuple[list[Any], DataReport | None, set[bytes]]:
    """The rows of `eval_data`, the report on them, and the prints of what they ask."""
    if settings.eval_data is None:
        return [], None, set()
    prompts = set[bytes]()
    sieve = _Listening(prompts) if "held-out" in settings.leave_out else Sieve(())
    held_out, report = _load(settings.eval_data, settings, tokenizer, None, sieve)
    return held_out, report, prompts


class _Listening(Sieve):
    """Lets all rows through, and keeps what they ask."""

    def __init__(self, prompts: set[bytes]) -> None:
        super().__init__(())
        self._asked = prompts

    def keeps(self, number: int, sample: Sample) -> bool:
        self._asked.add(row_print(sample).prompt)
        return True


def _load(
    name: str, settings: DataSettings, tokenizer: Any, max_rows: int | None, sieve: Sieve
) -> tuple[list[Any], DataReport]:
    _, kept, report = _read(name, settings, tokenizer, max_rows, sieve)
    return _encoded([rendered for _, rendered in kept], ExampleEncoder(tokenizer), report)


def _read(
    name: str, settings: DataSettings, tokenizer: Any, max_rows: int | None, sieve: Sieve
) -> tuple[Source, list[tuple[Row, tuple[Rendered, ...]]], DataReport]:
    """Read, check, render and sift the rows of one source; the report has no counts of tokens."""
    source = open_source(name, max_rows=max_rows)
    tally = BadRowTally(source.where, settings.skip_bad_rows)
    with closing(source.rows) as stream:
        rows, rows_read = _readable(islice(stream, max_rows), tally)
    if not rows:
        raise DataError(_no_rows_message(name, tally))
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    fmt = detect_format(columns, settings.data_format, name)
    _check_template(fmt, settings, tokenizer, name)
    kept = _rendered(rows, fmt, Renderer(tokenizer, settings), tally, sieve)
    if not kept:
        raise DataError(_no_rows_message(name, tally, sieve))
    report = DataReport(
        source=name,
        format=fmt,
        rows_read=rows_read,
        rows_used=0,
        bad_rows=tally.count,
        problems=tuple(tally.problems),
        max_length=settings.max_length,
        ignored_columns=tuple(ignored_columns(columns, fmt)),
        left_out=_numbers(sieve),
    )
    return source, kept, report


def _load_lazily(
    settings: DataSettings,
    tokenizer: Any,
    seed: int,
    sieve: Sieve,
    held_out: list[Any],
    eval_report: DataReport | None,
) -> EncodedData:
    """The rows of `data` unread, but for a check of each; held-out ones as ever."""
    name = settings.data
    store = open_store(name, settings.max_rows)
    tally = BadRowTally(lambda number: f"{name}, {store.unit} {number}", settings.skip_bad_rows)
    columns = first_columns(store)
    fmt = detect_format(columns, settings.data_format, name)
    _check_template(fmt, settings, tokenizer, name)
    tools = (Renderer(tokenizer, settings), ExampleEncoder(tokenizer), tally)
    rows = LazyRows(store, fmt, *tools, max_length=settings.max_length).checked(sieve)
    if not rows:
        raise DataError(_no_rows_message(name, tally, sieve))
    report = DataReport(
        source=name,
        format=fmt,
        rows_read=len(rows) + tally.count + sum(map(len, sieve.left_out.values())),
        rows_used=len(rows),
        bad_rows=tally.count,
        problems=tuple(tally.problems),
        max_length=settings.max_length,
        ignored_columns=tuple(ignored_columns(columns, fmt)),
        lazy=True,
        left_out=_numbers(sieve),
    )
    if eval_report is None:
        chosen = _chosen(len(rows), settings.eval_split, seed, name)
        asked = rows.only(place for n, place in enumerate(rows.places) if n in chosen)
        rows = rows.only(place for n, place in enumerate(rows.places) if n not in chosen)
        held_out = [row for row in asked if is_learnt_from(row.sides)]
        dropped = len(asked) - len(held_out)
        if dropped and not held_out:
            raise _nothing_to_learn(f"'{name}', held-out rows", settings.max_length)
        report = replace(report, rows_used=report.rows_used - dropped, dropped=dropped)
    # Looks no further than to the first such row, mostly the very first.
    if not any(is_learnt_from(row.sides) for row in rows):
        raise _nothing_to_learn(f"'{name}'", settings.max_length)
    return EncodedData(rows, held_out, report, eval_report)


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
    rows: list[Row], fmt: str, renderer: Renderer, tally: BadRowTally, sieve: Sieve
) -> list[tuple[Row, tuple[Rendered, ...]]]:
    result = []
    for row in rows:
        try:
            sample = check_row(row.values, fmt)
            # Rendered before it is sifted: a row that cannot be is none to repeat.
            rendered = renderer.render_sides(sample)
            if sieve.keeps(row.number, sample):
                result.append((row, rendered))
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
            if not is_learnt_from(sides):
                dropped += 1
                continue
            truncated += length > report.max_length
            kept.append(PreferencePair(sides[0], sides[1]) if len(sides) == 2 else sides[0])
    if not kept:
        of_longest = f"; the longest row has {longest} tokens"
        raise _nothing_to_learn(f"'{report.source}'", report.max_length, of_longest)
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


def _numbers(sieve: Sieve) -> dict[str, tuple[int, ...]]:
    return {kind: tuple(numbers) for kind, numbers in sieve.left_out.items() if numbers}


def _nothing_to_learn(rows: str, max_length: int, more: str = "") -> DataError:
    within = f"within max_length={max_length}{more}"
    return DataError(f"{rows}: no row has a token to learn {within}; raise max_length")


def _no_rows_message(name: str, tally: BadRowTally, sieve: Sieve | None = None) -> str:
    if sieve is not None and any(sieve.left_out.values()):
        kinds = ", ".join(kind for kind, numbers in sieve.left_out.items() if numbers)
        return f"'{name}' has no row to learn from besides those of leave_out={kinds}"
    if not tally.count:
        return f"'{name}' has no rows"
    return f"'{name}' has no usable row; {tally.count} are bad, the first: {tally.problems[0]}"
