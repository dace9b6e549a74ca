"""Chooses tokens from logits. A sequence's choice depends on its own logits and seed alone."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from gossamer.serving.core.messages import SamplingParams

# Enough candidates for nearly every nucleus; a wider one is sorted in full.
_NARROW = 256
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

    None for a row whose largest value is no finite number: nothing can be chosen from it.
    """
    logprobs = {
        row: torch.log_softmax(logits[row], dim=-1)
        for row, state in enumerate(states)
        if state.params.logprobs is not None
    }
    # Rows are changed below; log-probabilities are those of the model itself, as OpenAI's are.
    for row, state in enumerate(states):
        _adjust(logits[row], state)
    # Not a number counts as the largest value.
    best = torch.argmax(logits, dim=-1, keepdim=True)
    peaks = logits.gather(1, best)[:, 0].tolist()
    choices: list[SampledToken | None] = []
    for row, (state, greedy, peak) in enumerate(
        zip(states, best[:, 0].tolist(), peaks, strict=True)
    ):
        if not math.isfinite(peak):
            choices.append(None)
            continue
        is_cold = state.params.temperature < _COLDEST
        token = greedy if is_cold else _draw(logits[row] - peak, state)
        state.counts[token] += 1
        choices.append(_describe(token, logprobs.get(row), state.params.logprobs))
    return choices


def _adjust(logits: Tensor, state: SamplingState) -> None:
    params = state.params
    if (params.presence_penalty or params.frequency_penalty) and state.counts:
        tokens = torch.tensor(list(state.counts))
        counts = torch.tensor(list(state.counts.values()), dtype=logits.dtype)
        logits[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    if state.num_generated < params.min_tokens and state.forbidden_early:
        logits[list(state.forbidden_early)] = float("-inf")


def _draw(logits: Tensor, state: SamplingState) -> int:
    """Draw one token by the inverse of the cumulative distribution over the kept candidates.

    logits [vocabulary], the largest being 0.
    """
    params = state.params
    scaled = logits / params.temperature
    width = params.top_k if 0 < params.top_k < len(scaled) else len(scaled)
    if params.top_p < 1.0 or width < len(scaled):
        values, tokens = torch.topk(scaled, min(width, _NARROW))
        # Probabilities among the top_k candidates, as if the others did not exist.
        total = torch.logsumexp(scaled, 0) if width == len(scaled) else None
        if width > _NARROW and (total is None or _mass(values, total) < params.top_p):
            values, tokens = torch.topk(scaled, width)
        probabilities = (values - (total if total is not None else values.logsumexp(0))).exp()
        if params.top_p < 1.0:
            before = probabilities.cumsum(0) - probabilities
            # Compared in Python's precision: a tiny top_p must not round to 0 and lose them all.
            probabilities = probabilities.masked_fill(before.double() >= params.top_p, 0.0)
    else:
        tokens = None
        probabilities = scaled.softmax(0)
    if params.min_p > 0:
        least = params.min_p * probabilities.max()
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.double().cumsum(0)
    target = state.rng.random() * float(cumulative[-1])
    place = int(torch.searchsorted(cumulative, target, right=True))
    place = min(place, int(probabilities.nonzero()[-1]))
    return place if tokens is None else int(tokens[place])


def _mass(values: Tensor, total: Tensor) -> float:
    return float((values - total).exp().sum())


def _describe(token: int, logprobs: Tensor | None, num_top: int | None) -> SampledToken:
    if logprobs is None:
        return SampledToken(token)
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        values, tokens = torch.topk(logprobs, min(num_top, len(logprobs)))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return SampledToken(token, float(logprobs[token]), top)
