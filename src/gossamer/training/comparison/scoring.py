"""Scores models inside a worker: the base model, or a run's model as soon as it is trained.

With `samples` in the settings of all runs, each model also answers that many held-out prompts, the
same ones, so that one can read what the methods have learnt.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import one_line
from gossamer.training.comparison.folder import JobFolder, read_json, write_json
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.evaluation import evaluate, load_eval_set
from gossamer.training.evaluation.predict import end_tokens, generate_replies
from gossamer.training.loop.device import peak_memory
from gossamer.training.loop.sampler import MAX_ANSWER, prompt_and_answer
from gossamer.training.outputs.checkpoint import step_of
from gossamer.training.outputs.listener import Listener, RunFacts
from gossamer.training.outputs.metrics import Record, RunResult
from gossamer.training.settings import RunSettings

Tell = Callable[[dict[str, Any]], None]


class Scoring:
    """The held-out rows, ready to be put to a model."""

    def __init__(
        self, settings: CompareSettings, run: RunSettings, folder: JobFolder, tell: Tell
    ) -> None:
        self._settings, self._folder, self._tell = settings, folder, tell
        self._num_samples = run.samples
        self._tokenizer = load_tokenizer(resolve(settings.model))
        self._held_out = load_eval_set(settings.eval, settings, run, self._tokenizer)

    def score(self, model: Any, dtype: str) -> dict[str, Any]:
        """Score `model`, and record the result in the job's folder."""
        found = evaluate(
            model,
            self._tokenizer,
            self._held_out,
            self._settings,
            kept_in=self._folder.progress,
            autocast=_autocast(dtype),
            progress=lambda done, total: self._tell(
                {"event": "scoring", "done": done, "of": total}
            ),
        ).as_record()
        self._take_samples(model, dtype)
        write_json(self._folder.evaluation, found)
        return found

    def _take_samples(self, model: Any, dtype: str) -> None:
        """Have some prompts answered; a score is worth more than a look at the answers."""
        try:
            self._sample(model, dtype)
        except Exception as error:
            why = one_line(f"{type(error).__name__}: {error}")
            self._tell({"event": "note", "text": f"warning: no samples are taken: {why}"})

    def _sample(self, model: Any, dtype: str) -> None:
        fitting = (prompt_and_answer(row.example) for row in self._held_out.rows)
        rows = list(islice((pair for pair in fitting if pair is not None), self._num_samples))
        if not rows:
            return
        was_training = model.training
        model.eval()
        try:
            device, lower = next(model.parameters()).device.type, _autocast(dtype)
            with torch.autocast(device, dtype=lower) if lower is not None else nullcontext():
                replies = generate_replies(
                    model,
                    [prompt for prompt, _ in rows],
                    ends=end_tokens(model, self._tokenizer, [answer[-1] for _, answer in rows]),
                    max_new_tokens=MAX_ANSWER,
                )
        finally:
            model.train(was_training)
        text = partial(self._tokenizer.decode, clean_up_tokenization_spaces=False)
        prompts = [
            {"prompt": text(prompt), "expected": text(answer, skip_special_tokens=True)}
            for prompt, answer in rows
        ]
        texts = [text(reply, skip_special_tokens=True) for reply in replies]
        write_json(self._folder.samples, {"prompts": prompts, "texts": texts})


def _autocast(dtype: str) -> torch.dtype | None:
    """The type that a run of that compute type computes in where that is safe."""
    return torch.bfloat16 if dtype == "bfloat16" else None


class ScoringListener(Listener):
    """Tells the steps of a run, and scores its model before the result is written.

    A run that is stopped while it is scored counts as unfinished: resumed, it loads its last
    checkpoint and comes here again.
    """

    def __init__(self, scoring: Scoring, folder: JobFolder, tell: Tell) -> None:
        self._scoring, self._folder, self._tell = scoring, folder, tell
        self._dtype, self._device = "float32", "cpu"

    def started(self, facts: RunFacts) -> None:
        self._dtype, self._device = facts.dtype, facts.device
        self._tell(
            {
                "event": "started",
                "steps": facts.plan.steps,
                "at": facts.resumed_from,
                "trainable": facts.trainable,
            }
        )

    def note(self, text: str) -> None:
        self._tell({"event": "note", "text": text})

    def step(self, record: Record) -> None:
        kept = ("step", "loss", "seconds")
        self._tell({"event": "step", **{name: record[name] for name in kept}})

    def saved(self, folder: Path) -> None:
        # Before the evaluation, whose memory is no part of training; the last step is saved too.
        before = (read_json(self._folder.memory) or {}).get("peak_memory", 0)
        peak = max(before, peak_memory(self._device))
        write_json(self._folder.memory, {"peak_memory": peak})
        self._tell({"event": "saved", "step": step_of(folder)})

    def trained(self, model: Any, result: RunResult) -> None:
        self._scoring.score(model, self._dtype)
