"""The result of loading: the examples, and what there is to tell about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gossamer.training.data.encode import NO_LOSS, Example

_SHOWN = 10
"""Numbers of rows in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """Counts of one source of rows. Token counts are after cutting, dropped rows aside."""

    source: str
    format: str
    """messages, prompt-completion, instruction, text or preference."""
    rows_read: int
    """All rows, bad ones included, blank lines not."""
    rows_used: int
    bad_rows: int = 0
    """Malformed rows that were left out."""
    problems: tuple[str, ...] = ()
    """Where the first few bad rows are and what is wrong with them."""
    truncated: int = 0
    """Rows that were cut to the maximum length and still have something to learn."""
    dropped: int = 0
    """Rows left out because nothing to learn was left after cutting."""
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens that count in the loss."""
    longest: int = 0
    """Tokens of the longest row before cutting."""
    max_length: int = 0
    ignored_columns: tuple[str, ...] = ()
    lazy: bool = False
    """Whether rows are read when they are needed; then tokens are not counted."""
    packed: int = 0
    """The rows into which the training rows were packed; 0: they were not."""
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The numbers of the rows that `leave_out` kept from learning, by kind."""

    def left_out_rows(self) -> dict[str, str]:
        """The numbers of `left_out` as texts such as "3, 7-9", for a record."""
        return {kind: _ranges(numbers) for kind, numbers in self.left_out.items()}

    def lines(self) -> list[str]:
        """The report in plain sentences, one a line."""
        tokens = (
            f"{self.tokens} tokens, {self.trained_tokens} trained on, "
            f"longest row {self.longest} tokens"
        )
        lines = [self._rows(), "rows are read as they are needed" if self.lazy else tokens]
        if self.ignored_columns:
            lines.append(f"ignored columns: {', '.join(self.ignored_columns)}")
        if self.packed:
            lines.append(f"packed into {self.packed} rows of at most {self.max_length} tokens")
        if self.truncated:
            lines.append(f"{self.truncated} rows cut to max_length={self.max_length} tokens")
        if self.dropped:
            lines.append(
                f"{self.dropped} rows left out: nothing to learn in their first "
                f"{self.max_length} tokens (raise max_length to keep them)"
            )
        return lines + self._left_out()

    def lines_of_rows(self) -> list[str]:
        """Which rows are not learnt from, in plain sentences, one a line; empty: all are."""
        left_out = self._left_out()
        return [self._rows(), *left_out] if left_out else []

    def _rows(self) -> str:
        return f"{self.source}: {self.rows_used} of {self.rows_read} rows, format {self.format}"

    def _left_out(self) -> list[str]:
        lines = [
            f"{len(numbers)} {kind} left out: {_listed(numbers)}"
            for kind, numbers in self.left_out.items()
        ]
        if self.bad_rows:
            lines.append(f"{self.bad_rows} bad rows left out:")
            lines += [f"  {problem}" for problem in self.problems]
            if self.bad_rows > len(self.problems):
                lines.append(f"  and {self.bad_rows - len(self.problems)} more")
        return lines


@dataclass(frozen=True, slots=True)
class EncodedData:
    """Examples ready for the trainer, in the order of the file."""

    train: Sequence[Any]
    """Examples, or pairs where the format is preference."""
    eval: list[Any]
    """Held-out rows of `data`, or the rows of `eval_data`; empty if neither was asked for."""
    report: DataReport
    """About `data`, held-out rows included."""
    eval_report: DataReport | None = field(default=None)
    """About `eval_data`."""

    def preview(self, tokenizer: Any, n: int = 1) -> str:
        """The first `n` training examples as the model reads them, of pairs the chosen one first.

        The stretches that count in the loss stand between `>>>` and `<<<`; all else is context.
        """
        shown = [side for row in self.train[:n] for side in row.sides]
        return "\n\n".join(_preview(tokenizer, i, e) for i, e in enumerate(shown, start=1))


def _ranges(numbers: tuple[int, ...]) -> str:
    """Numbers in rising order, neighbours as their first and last."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def _listed(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else shown


def _preview(tokenizer: Any, number: int, example: Example) -> str:
    head = (
        f"example {number}: {len(example.input_ids)} tokens, "
        f"{example.trained_tokens} trained on, marked >>>like this<<<"
    )
    return head + "\n" + "".join(_marked(tokenizer, *run) for run in _runs(example))


def _runs(example: Example) -> list[tuple[bool, list[int]]]:
    """Neighbouring tokens that are all trained on, or all not."""
    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        trained = label != NO_LOSS
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return runs


def _marked(tokenizer: Any, trained: bool, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return f">>>{text}<<<" if trained else str(text)
