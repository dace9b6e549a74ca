"""Scores the tokens of prompts: their log-probabilities, whatever the vocabulary and the length.

The logits of a long chunk would take gigabytes, so they are made of the hidden states in pieces of
rows, and only a few numbers of each row are kept.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.device.device import Fetch
from gossamer.serving.runner.lowering.step import StepBatch
from gossamer.serving.runner.sampling.draw import put_on

PIECE = 2**23
"""The most logits of a piece: 32 MiB, a few of which are needed at a time."""


class OutputHead:
    """Makes logits of hidden states that the decoder has given before, as the model itself does.

    The model's own code runs, so whatever it does to logits (scales, caps) is done; only its
    decoder is not called a second time.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._decoder = model.get_decoder()
        self._output: Any = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the output of the decoder, which is called meanwhile."""

        def keep(module: Any, inputs: Any, output: Any) -> None:
            self._output = output

        hook = self._decoder.register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def forget(self) -> None:
        """Keep no output any more."""
        self._output = None

    def logits(self, token_ids: Tensor, rows: Tensor) -> Tensor:
        """Logits [len(rows), vocabulary] of the tokens numbered `rows` of the kept output."""
        # An attribute of the object goes before the method of its class.
        self._decoder.forward = lambda *_, **__: self._output
        try:
            output = self._model(input_ids=token_ids, use_cache=False, logits_to_keep=rows)
        finally:
            del self._decoder.forward
        logits: Tensor = output.logits[0]
        return logits


def pieces(batch: StepBatch, vocabulary: int) -> Iterator[Tensor]:
    """The rows of `batch` that are scored, as many at a time as make a piece."""
    if batch.scored_rows is not None:
        size = max(1, PIECE // vocabulary)
        for begin in range(0, len(batch.scored_rows), size):
            yield batch.scored_rows[begin : begin + size]


@dataclass(frozen=True, slots=True)
class ScoresInFlight:
    """The scores of a step, on their way to the host."""

    found: list[tuple[Sequence, int, int]]
    """Sequences, the first token of each that is scored, and how many are."""
    num_top: int
    _numbers: list[Fetch]
    """float32 [rows, 2 + num_top] of each piece: log-probability, rank, best log-probabilities."""
    _top: list[Fetch]
    """int64 [rows, num_top] of each piece, where the likeliest tokens were asked for."""

    def read(self) -> list[tuple[Sequence, PromptScores]]:
        """Wait for them; returns what each chunk's sequence gets."""
        numbers = np.concatenate([fetch.result().numpy() for fetch in self._numbers])
        tops = [fetch.result().numpy() for fetch in self._top]
        tokens = np.concatenate(tops) if tops else np.zeros((len(numbers), 0), dtype=np.int64)
        result, begin = [], 0
        for sequence, first, count in self.found:
            rows, best = numbers[begin : begin + count], tokens[begin : begin + count]
            begin += count
            scores = PromptScores(
                first,
                self.num_top,
                _floats(rows[:, 0]),
                _integers(rows[:, 1]),
                _integers(best),
                _floats(rows[:, 2:]),
            )
            result.append((sequence, scores))
        return result


@torch.inference_mode()
def score(
    batch: StepBatch, logits: Iterable[Tensor], fetch: Callable[[Tensor], Fetch]
) -> ScoresInFlight | None:
    """Score the prompt tokens of `batch` that ask for it; None where none does.

    logits: float32 [rows, vocabulary] of its pieces, in order; they are used up.
    """
    if batch.scored_rows is None:
        return None
    found: list[tuple[Sequence, int, int]] = []
    targets: list[int] = []
    for chunk in batch.scored:
        # What follows a token is scored where that one is computed.
        sequence, first = chunk.sequence, chunk.sequence.num_computed + chunk.scored.start + 1
        found.append((sequence, first, len(chunk.scored)))
        targets += sequence.token_ids[first : first + len(chunk.scored)]
    num_top = max(sequence.request.sampling.prompt_logprobs or 0 for sequence, _, _ in found)
    numbers, top, place = [], [], 0
    for piece in logits:
        wanted = put_on(piece.device, targets[place : place + len(piece)])
        place += len(piece)
        total = piece.logsumexp(dim=-1, keepdim=True)
        own = piece.gather(1, wanted[:, None])
        # As float32, of which every rank below sixteen millions is one exactly.
        rank = (piece > own).sum(dim=-1, keepdim=True).float() + 1
        best, tokens = _best(piece, num_top)
        numbers.append(fetch(torch.cat([own - total, rank, best - total], dim=1)))
        if num_top:
            top.append(fetch(tokens))
    return ScoresInFlight(found, num_top, numbers, top)


def _best(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, and where they are; [rows, count] each."""
    if count == 1:
        values, places = logits.max(dim=-1, keepdim=True)  # many times as fast on a processor
        return values, places
    values, places = torch.topk(logits, count)
    return values, places


def _floats(values: Any) -> "array[float]":
    return array("f", np.ascontiguousarray(values, dtype=np.float32).tobytes())


def _integers(values: Any) -> "array[int]":
    return array("q", np.ascontiguousarray(values, dtype=np.int64).tobytes())
