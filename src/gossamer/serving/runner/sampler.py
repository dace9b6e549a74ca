"""Chooses tokens from logits. A sequence's choice depends on its own logits and seed alone."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.runner.draw import draw_tokens

# Below this the division of logits could overflow, and all but the likeliest token have
# probability 0 anyhow.
_COLDEST = 1e-4


@dataclass(slots=True)
class SamplingState:
    """The state that sampling keeps of a sequence."""

    params: SamplingParams
    forbidden_early: tuple[int, ...]
    """End-of-text tokens, not to be chosen before `min_tokens` (never with `ignore_eos`)."""
    rng: Random = field(init=False)
    counts: Counter[int] = field(default_factory=Counter)
    """The number of times that each token was generated."""

    def __post_init__(self) -> None:
        self.rng = Random(self.params.seed)

    @property
    def num_generated(self) -> int:
        """The number of tokens chosen so far."""
        return self.counts.total()


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token; its log-probability and the most likely ones where asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def sample(logits: Tensor, states: Sequence[SamplingState]) -> list[SampledToken | None]:
    """Choose the next token of each row of `logits` [n, vocabulary], float32, and remember it.

    `logits` are used up: to make others of their size would take as long as the arithmetic.
    None for a row whose largest value is no finite number: nothing can be chosen from it.
    """
    logprobs = {
        row: torch.log_softmax(logits[row], dim=-1)
        for row, state in enumerate(states)
        if state.params.logprobs is not None
    }
    # Rows are changed below; log-probabilities are those of the model itself, as OpenAI's are.
    _penalize(logits, states)
    _forbid(logits, states)
    best = _argmax(logits)
    peaks = logits.gather(1, best)
    tokens = best[:, 0].tolist()
    is_finite = [math.isfinite(peak) for peak in peaks[:, 0].tolist()]
    drawn = [
        row
        for row, state in enumerate(states)
        if is_finite[row] and state.params.temperature >= _COLDEST
    ]
    if drawn:
        if len(drawn) < len(states):
            logits, peaks = logits[drawn], peaks[drawn]
        chosen = draw_tokens(
            logits.sub_(peaks),
            [states[row].params for row in drawn],
            [states[row].rng.random() for row in drawn],
        )
        for row, token in zip(drawn, chosen, strict=True):
            tokens[row] = token
    choices: list[SampledToken | None] = []
    for row, (state, token) in enumerate(zip(states, tokens, strict=True)):
        if not is_finite[row]:
            choices.append(None)
            continue
        state.counts[token] += 1
        choices.append(_describe(token, logprobs.get(row), state.params.logprobs))
    return choices


def _argmax(logits: Tensor) -> Tensor:
    """The place [n, 1] of each row's largest value, the first of several; not a number is that."""
    if logits.device.type == "cpu":
        # Torch's own takes fifty times as long on a processor.
        return torch.from_numpy(logits.numpy().argmax(axis=1))[:, None]
    return torch.argmax(logits, dim=-1, keepdim=True)


def _penalize(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Take the penalties of tokens that were generated before off their logits, in place."""
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[Tensor] = []
    for row, state in enumerate(states):
        params = state.params
        if (params.presence_penalty or params.frequency_penalty) and state.counts:
            rows += [row] * len(state.counts)
            tokens += state.counts
            counts = torch.tensor(list(state.counts.values()), dtype=logits.dtype)
            amounts.append(params.presence_penalty + params.frequency_penalty * counts)
    if rows:
        logits[rows, tokens] -= torch.cat(amounts)


def _forbid(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Make tokens that end a text impossible where it is too early for them, in place."""
    early = [
        (row, token)
        for row, state in enumerate(states)
        if state.forbidden_early and state.num_generated < state.params.min_tokens
        for token in state.forbidden_early
    ]
    if early:
        rows, tokens = zip(*early, strict=True)
        logits[list(rows), list(tokens)] = float("-inf")


def _describe(token: int, logprobs: Tensor | None, num_top: int | None) -> SampledToken:
    if logprobs is None:
        return SampledToken(token)
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        values, tokens = torch.topk(logprobs, min(num_top, len(logprobs)))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return SampledToken(token, float(logprobs[token]), top)
