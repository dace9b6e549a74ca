"""Held-out rows: what the model is asked, and whether its reply is right."""

import random
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.check import Sample, check_row
from gossamer.training.data.encode import NO_LOSS, Example, ExampleEncoder, cut
from gossamer.training.data.formats import detect_format
from gossamer.training.data.render import Renderer, require_template
from gossamer.training.data.rows import BadRow, Row, RowProblem, Source
from gossamer.training.data.settings import DataSettings
from gossamer.training.data.source import open_source
from gossamer.training.evaluation.settings import EvaluationSettings, ScoreName

_TOLERANCE = 1e-3
# A minus counts as a sign unless something that can be subtracted from stands before it: "10-7".
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-\u2212]\$?)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")


def numbers_in(text: str) -> list[float]:
    """All numbers of `text` in order; `1,234.5`, `-3`, `.5` and `-$7` are one number each."""
    return [
        float(found.replace(",", "").replace("$", "").replace("\u2212", "-"))
        for found in _NUMBER.findall(text)
    ]


def as_number(text: str) -> float | None:
    """The number that `text` is, or None if it is not just a number."""
    stripped = text.strip()
    return numbers_in(stripped)[0] if _NUMBER.fullmatch(stripped) else None


def last_number_is(reply: str, answer: str) -> bool:
    """Whether the last number of `reply` equals the number `answer` within 0.001."""
    found, wanted = numbers_in(reply), as_number(answer)
    return bool(found) and wanted is not None and abs(found[-1] - wanted) <= _TOLERANCE


def is_exactly(reply: str, answer: str) -> bool:
    """Whether `reply` is `answer`; white space at the ends or doubled and a last period aside."""
    return _plain(reply) == _plain(answer)


def first_option(reply: str, options: Sequence[str]) -> str | None:
    """The option that `reply` names first, as a word of its own; upper and lower case are alike.

    Of two that begin at the same place, the longer. None if there is none.
    """
    longest_first = sorted(options, key=len, reverse=True)
    either = "|".join(re.escape(option.strip()) for option in longest_first)
    found = re.search(rf"(?<!\w)(?:{either})(?!\w)", reply, re.IGNORECASE)
    if found is None:
        return None
    named = found[0].casefold()
    return next(option for option in options if option.strip().casefold() == named)


def names_answer(reply: str, answer: str, options: Sequence[str]) -> bool:
    """Whether the first of `options` that `reply` names is `answer`."""
    return first_option(reply, options) == answer


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip()


_MOST_CHOICES = 10
_ANSWER_COLUMNS = {"prompt-completion": "completion", "instruction": "output"}


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One held-out row."""

    prompt: list[int]
    """Token ids up to where the reply begins; empty for rows of plain text."""
    example: Example
    """The row as it would be trained on, cut to the maximum length; its labels give the loss."""
    answer: str
    options: tuple[Example, ...] = ()
    """The row with each of its options as the reply."""
    option_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvalSet:
    """The rows to score, in the order of the file, and how to score them."""

    rows: list[EvalRow]
    score: ScoreName
    choices: tuple[str, ...]
    """The different answers of all rows, sorted: the options of rows that name none."""
    truncated: int
    """Rows that were cut to the maximum length for the loss."""


def load_eval_set(
    name: str, settings: EvaluationSettings, data: DataSettings, tokenizer: Any
) -> EvalSet:
    """Read and encode the rows of `name` as `data` says; choose the score if it is "auto".

    A row needs what a training row needs, or a prompt and an `answer`, which then is what the model
    should say. `options` is a list of possible answers. Raises `DataError` with file and line.
    """
    source = open_source(name)
    rows = _drawn(_readable(source), settings.eval_rows)
    if not rows:
        raise DataError(f"'{name}' has no rows to evaluate on")
    columns = dict.fromkeys(column for row in rows for column in row.values)
    fmt = detect_format(columns, data.data_format, name)
    if fmt == "preference":
        raise DataError(f"'{name}' holds pairs of answers, which have no score; give rows of one")
    data = data.model_copy(update={"train_on": "completion"})
    if fmt != "text" and data.chat_template:
        require_template(tokenizer)
    reader = _Reader(source, fmt, data, tokenizer)
    loaded = [reader.read(row) for row in rows]
    given = ["answer" in row.values for row in rows]
    score = _score(settings, loaded, fmt, has_answers=all(given), name=name)
    for row, loaded_row in zip(rows, loaded, strict=True):
        _check_answer(source.where(row.number), loaded_row, score)
    return EvalSet(
        rows=loaded,
        score=score,
        choices=tuple(sorted({row.answer for row in loaded})) if score == "choice" else (),
        truncated=reader.truncated,
    )


class _Reader:
    def __init__(self, source: Source, fmt: str, data: DataSettings, tokenizer: Any) -> None:
        self._source = source
        self._format = fmt
        self._max_length = data.max_length
        self._renderer = Renderer(tokenizer, data)
        self._encoder = ExampleEncoder(tokenizer)
        self.truncated = 0

    def read(self, row: Row) -> EvalRow:
        try:
            return self._read(row.values)
        except RowProblem as problem:
            raise DataError(f"{self._source.where(row.number)}: {problem}") from None

    def _read(self, values: Mapping[str, Any]) -> EvalRow:
        sample = check_row(dict(values), self._format)
        example = self._encode(sample)
        names = _options(values)
        kept = cut(example, self._max_length)
        if not kept.trained_tokens:
            raise RowProblem(
                f"no token of the reply lies within max_length={self._max_length}; raise it"
            )
        self.truncated += len(example.input_ids) > self._max_length
        return EvalRow(
            prompt=[] if self._format == "text" else _before_reply(example),
            example=kept,
            answer=_answer(values, self._format),
            options=tuple(self._encode(self._with_reply(values, name)) for name in names),
            option_names=names,
        )

    def _with_reply(self, values: Mapping[str, Any], reply: str) -> Sample:
        column = _ANSWER_COLUMNS.get(self._format)
        if column is None or not isinstance(values[column], str):
            raise RowProblem("'options' need a prompt that is a string, and its completion")
        return check_row({**values, column: reply}, self._format)

    def _encode(self, sample: Sample) -> Example:
        return self._encoder.encode(self._renderer.render_sides(sample))[0]


def _readable(source: Source) -> list[Row]:
    rows = []
    with closing(source.rows) as stream:
        for row in stream:
            if isinstance(row, BadRow):
                raise DataError(f"{source.where(row.number)}: {row.reason}")
            values = row.values
            if "answer" in values and "prompt" in values and "completion" not in values:
                values = {**values, "completion": str(values["answer"])}
            rows.append(Row(row.number, values))
    return rows


def _drawn(rows: list[Row], count: int | None) -> list[Row]:
    """Draw `count` rows from the whole file, in its order; the same at every call."""
    if count is None or count >= len(rows):
        return rows
    return [rows[index] for index in sorted(random.Random(0).sample(range(len(rows)), count))]


def _before_reply(example: Example) -> list[int]:
    """The tokens before the last stretch that is trained on: what a server would be asked."""
    labels = example.labels
    end = len(labels)
    while end and labels[end - 1] == NO_LOSS:
        end -= 1
    while end and labels[end - 1] != NO_LOSS:
        end -= 1
    return example.input_ids[:end]


def _answer(values: Mapping[str, Any], fmt: str) -> str:
    if "answer" in values:
        if values["answer"] is None:
            raise RowProblem("'answer' is null")
        return str(values["answer"])
    column = _ANSWER_COLUMNS.get(fmt)
    value = values.get(column) if column else None
    return value if isinstance(value, str) else ""


def _options(values: Mapping[str, Any]) -> tuple[str, ...]:
    options = values.get("options")
    if options is None:
        return ()
    if not isinstance(options, list) or len(options) < 2:
        raise RowProblem("'options' must be a list of two or more possible answers")
    return tuple(str(option) for option in options)


def _score(
    settings: EvaluationSettings, rows: list[EvalRow], fmt: str, *, has_answers: bool, name: str
) -> ScoreName:
    if fmt == "text" and settings.score not in ("auto", "loss"):
        raise DataError(f"'{name}' holds plain text, which has no replies; use --score loss")
    if settings.score == "auto":
        return _detected(rows) if has_answers and fmt != "text" else "loss"
    return settings.score


def _detected(rows: list[EvalRow]) -> ScoreName:
    if all(row.options for row in rows):
        return "choice"
    answers = {row.answer for row in rows}
    if all(as_number(answer) is not None for answer in answers):
        return "last-number"
    few = len(answers) <= min(_MOST_CHOICES, len(rows) // 2)
    return "choice" if few and all(len(answer.split()) == 1 for answer in answers) else "exact"


def _check_answer(where: str, row: EvalRow, score: ScoreName) -> None:
    if score == "loss":
        return
    if not row.answer.strip():
        raise DataError(f"{where}: no answer to compare the reply with; use --score loss")
    if score == "last-number" and as_number(row.answer) is None:
        raise DataError(f"{where}: the answer '{row.answer}' is not a number; use --score exact")
    if score == "choice" and row.option_names and row.answer not in row.option_names:
        listed = ", ".join(row.option_names)
        raise DataError(f"{where}: the answer '{row.answer}' is none of the options {listed}")
