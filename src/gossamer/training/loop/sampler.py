"""Lets the model that is being trained answer some held-out prompts, the same ones each time.

Nothing of it is felt in the training: answers are the likeliest ones, so nothing is drawn, the
state of the random numbers is put back all the same, and no layer is in training mode.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gossamer.errors import one_line
from gossamer.methods.common.ranks import is_first
from gossamer.training.data.encode import NO_LOSS, Example
from gossamer.training.evaluation.predict import end_tokens, generate_replies
from gossamer.training.loop.own_forward import without_trainer
from gossamer.training.loop.trainer import RunBehaviour
from gossamer.training.outputs.listener import Listener, warn
from gossamer.training.outputs.samples import add_samples
from gossamer.training.processes.shard import is_sharded

MAX_ANSWER = 48
"""Tokens of an answer."""
MAX_PROMPT = 512
"""Tokens of a prompt; rows with longer ones are passed over."""
_START = 32
"""Tokens of plain text that are given, for the model to go on from."""


class PromptSampler:
    """The prompts of a run, and how they are answered."""

    def __init__(
        self,
        rows: Sequence[Any],
        tokenizer: Any,
        output: Path,
        listener: Listener,
        *,
        count: int,
        forward: Any,
    ) -> None:
        """`count` rows of the held-out `rows` are used; `forward` is the base model's own."""
        self._tokenizer = tokenizer
        self._output = output
        self._listener = listener
        self._forward = forward
        fitting = (pair for row in rows if (pair := prompt_and_answer(row.sides[0])) is not None)
        self.rows = [pair for _, pair in zip(range(count), fitting, strict=False)]
        """The prompt and the answer of each row, as tokens."""
        self._failed = False

    def take(self, trainer: RunBehaviour, place: dict[str, Any]) -> None:
        """Answer all prompts and write the answers down under `place`, the step and stage."""
        if not self.rows or self._failed:
            return
        began = time.perf_counter()
        try:
            texts = self._answer(trainer)
        except Exception as error:
            if is_sharded(trainer.model):
                # The other processes wait for this one's part of the next forward pass.
                raise
            # Training is worth more than a look at it; a run whose memory has no room for this
            # goes on, and says so once.
            self._failed = True
            why = one_line(f"{type(error).__name__}: {error}")
            warn(self._listener, f"no samples are taken any more: {why}")
            return
        if not is_first():
            return
        prompts = [
            {"prompt": self._text(prompt, special=True), "expected": self._text(answer)}
            for prompt, answer in self.rows
        ]
        seconds = round(time.perf_counter() - began, 3)
        add_samples(self._output, prompts, {**place, "texts": texts, "seconds": seconds})

    def _answer(self, trainer: RunBehaviour) -> list[str]:
        model = trainer.model
        last = [answer[-1] for _, answer in self.rows]
        with (
            _at_rest(model),
            without_trainer(model, self._forward),
            trainer.compute_loss_context_manager(),
        ):
            replies = generate_replies(
                model,
                [prompt for prompt, _ in self.rows],
                ends=end_tokens(model, self._tokenizer, last),
                max_new_tokens=MAX_ANSWER,
            )
        return [self._text(reply) for reply in replies]

    def _text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text


def prompt_and_answer(example: Example) -> tuple[list[int], list[int]] | None:
    """The prompt of a row, up to the first token that is learnt, and its answer; None: the prompt
    is too long, or nothing is learnt.

    Of text without a prompt the start is given.
    """
    ids, labels = example.input_ids, example.labels
    first = next((index for index, label in enumerate(labels) if label != NO_LOSS), None)
    if first is None:
        return None
    if first <= 1:
        first = min(_START, max(1, len(ids) // 2))
    end = next((i for i, label in enumerate(labels[first:], first) if label == NO_LOSS), len(ids))
    return (ids[:first], ids[first:end] or ids[first:]) if first <= MAX_PROMPT else None


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """Leave `model` and the random numbers as they were."""
    was_training = model.training
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
