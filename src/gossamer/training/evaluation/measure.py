"""Scores a model on held-out rows, and remembers what is done in case of an interruption."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gossamer.files import write_whole
from gossamer.training.evaluation import tasks
from gossamer.training.evaluation.predict import end_tokens, generate_replies, log_probabilities
from gossamer.training.evaluation.settings import EvaluationSettings
from gossamer.training.evaluation.tasks import EvalRow, EvalSet


class ProgressFile:
    """A file of batches in the order in which they were done; without a path, only in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self.seconds = 0.0
        """The time that the batches took."""
        if path is not None and path.exists():
            self._read(path)

    def known(self, what: str) -> list[Any]:
        """The values of all batches of the kind `what` that the file had when it was opened."""
        return list(self._known.get(what, []))

    def add(self, what: str, values: list[Any], seconds: float) -> None:
        """Keep a batch that is done."""
        self.seconds += seconds
        if self._path is not None:
            line = {"what": what, "values": values, "seconds": round(seconds, 4)}
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    def _read(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = []
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                break
            whole.append(text if text.endswith("\n") else text + "\n")
            self._known.setdefault(line["what"], []).extend(line["values"])
            self.seconds += line["seconds"]
        if len(whole) < len(lines) or (lines and not lines[-1].endswith("\n")):
            # The last line was cut off by a kill; what follows must not be glued to it.
            write_whole(path, "".join(whole))


Progress = Callable[[int, int], None]
"""A function that is called with the rows done and the rows in all; a row counts once for its loss,
its reply and its options each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of an evaluation."""

    score: str
    """The kind of score: loss, exact, last-number or choice."""
    value: float
    """The loss, or the share of rows whose reply is right."""
    right: int | None
    """The number of rows whose reply is right; None if the score is the loss."""
    rows: int
    loss: float
    """Mean loss in nats over the tokens of all replies that training would learn from."""
    likeliest: float | None
    """Share of rows whose answer is the most probable of the row's options; None without any."""
    unfinished: int
    """Replies that were cut at max_new_tokens."""
    seconds: float
    """The time spent here, interrupted attempts included as far as their batches were kept."""

    def as_record(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)


def evaluate(
    model: Any,
    tokenizer: Any,
    held_out: EvalSet,
    settings: EvaluationSettings,
    *,
    kept_in: Path | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Score `model`, left in the mode it came in.

    Each batch that is done is added to the file `kept_in`, and is not done again if that file has
    it. `autocast`: compute in this type where that is safe, as a run with this compute type does.
    """
    device = next(model.parameters()).device.type
    was_training = model.training
    work = _Work(model, tokenizer, held_out, settings, ProgressFile(kept_in), progress)
    model.eval()
    try:
        with torch.autocast(device, dtype=autocast) if autocast is not None else nullcontext():
            return work.result()
    finally:
        model.train(was_training)


class _Work:
    """The three passes over the rows; each goes through them in the order of their length."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        held_out: EvalSet,
        settings: EvaluationSettings,
        kept: ProgressFile,
        progress: Progress,
    ) -> None:
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._rows, self._held_out = held_out.rows, held_out
        self._kept, self._progress = kept, progress
        self._done = 0
        self._with_replies = held_out.score != "loss"
        options = sum(len(row.options) for row in self._rows)
        self._total = len(self._rows) * (2 if self._with_replies else 1) + options

    def result(self) -> Evaluation:
        loss = self._loss()
        likeliest = self._likeliest()
        said = self._replies() if self._with_replies else []
        right = [
            self._is_right(text, row) for (text, _), row in zip(said, self._rows, strict=False)
        ]
        return Evaluation(
            score=self._held_out.score,
            value=sum(right) / len(right) if self._with_replies else loss,
            right=sum(right) if self._with_replies else None,
            rows=len(self._rows),
            loss=loss,
            likeliest=likeliest,
            unfinished=sum(not finished for _, finished in said),
            seconds=round(self._kept.seconds, 2),
        )

    def _loss(self) -> float:
        examples = [row.example for row in self._rows]
        sums = self._sums("loss", examples)
        return -sum(sums) / sum(example.trained_tokens for example in examples)

    def _likeliest(self) -> float | None:
        pairs = [(row, option) for row in self._rows for option in row.options]
        if not pairs or any(not row.options for row in self._rows):
            return None
        sums = iter(self._sums("options", [option for _, option in pairs]))
        right = 0
        for row in self._rows:
            by_name = {name: next(sums) for name in row.option_names}
            right += max(by_name, key=lambda name: by_name[name]) == row.answer
        return right / len(self._rows)

    def _sums(self, what: str, examples: list[Any]) -> list[float]:
        """The log-probability of each of `examples`, in their order."""
        order = sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids))
        found: list[float] = self._kept.known(what)
        self._advance(len(found))
        began = time.perf_counter()
        for sums in log_probabilities(self._model, [examples[i] for i in order[len(found) :]]):
            found += sums
            self._kept.add(what, sums, time.perf_counter() - began)
            began = time.perf_counter()
            self._advance(len(sums))
        return [value for _, value in sorted(zip(order, found, strict=True))]

    def _replies(self) -> list[tuple[str, bool]]:
        """(text, whether it came to an end) for each row."""
        rows, size = self._rows, self._settings.eval_batch_size
        # The longest first: if memory does not suffice, that shows at once.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt))
        ends = end_tokens(self._model, self._tokenizer, [row.example.labels[-1] for row in rows])
        found: list[tuple[str, bool]] = [(t, bool(e)) for t, e in self._kept.known("replies")]
        self._advance(len(found))
        for start in range(len(found), len(order), size):
            began = time.perf_counter()
            prompts = [rows[i].prompt for i in order[start : start + size]]
            limit = self._settings.max_new_tokens
            tokens = generate_replies(self._model, prompts, ends=ends, max_new_tokens=limit)
            texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
            said = [(text, len(ids) < limit) for text, ids in zip(texts, tokens, strict=True)]
            found += said
            self._kept.add("replies", said, time.perf_counter() - began)
            self._advance(len(said))
        return [reply for _, reply in sorted(zip(order, found, strict=True))]

    def _is_right(self, reply: str, row: EvalRow) -> bool:
        if self._held_out.score == "last-number":
            return tasks.last_number_is(reply, row.answer)
        if self._held_out.score == "choice":
            options = row.option_names or self._held_out.choices
            return tasks.names_answer(reply, row.answer, options)
        return tasks.is_exactly(reply, row.answer)

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)
