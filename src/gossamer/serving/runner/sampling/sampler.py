"""Chooses tokens from logits. A sequence's choice depends on its own logits and seed alone.

What is chosen stays on the device of the logits, where the next step may read it, until the host
asks for it: nothing here waits for the device but a draw whose nucleus may be a wide one (`draw`).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from torch import Tensor

from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.device.device import Fetch
from gossamer.serving.runner.sampling.draw import draw_tokens, put_on
from gossamer.serving.runner.sampling.grammar_masks import TokenGrammar, forbid_by_grammars

# Below this the division of logits could overflow, and all but the likeliest token have
# probability 0 anyhow.
_COLDEST = 1e-4

_NOTHING = -1
"""Stands for the token of a row of which nothing can be chosen."""

_NOTHING_LEFT = -2
"""Stands for that of a row in which every token is forbidden."""


@dataclass(slots=True)
class SamplingState:
    """The state that sampling keeps of a sequence."""

    params: SamplingParams
    forbidden_early: tuple[int, ...]
    """Tokens that end a text, not to be chosen before `min_tokens` (never with `ignore_eos`)."""
    prompt: Sequence[int] = ()
    """The tokens of the prompt, which count as repeated too."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens that are not to be generated."""
    grammar: TokenGrammar | None = None
    """Knows which tokens may come next, where the answer is to have a form."""
    rng: Random = field(init=False)
    counts: Counter[int] = field(default_factory=Counter)
    """The number of times that each token was generated, where penalties depend on it."""
    num_chosen: int = 0
    """The number of tokens chosen so far, read or not."""
    needs_counts: bool = field(init=False)
    """Whether a token must be read before the next one is chosen."""
    recent: list[int] = field(default_factory=list)
    """The last tokens that were generated, where bad words depend on them."""
    bias: tuple[Tensor, Tensor] | None = field(init=False)
    """What is added to the logits of this sequence, whatever was generated: int64 [n] tokens and
    float32 [n] amounts, on the host."""
    repeated: Tensor | None = field(init=False, default=None)
    """bool [vocabulary], on the device: the tokens of prompt and output, made when first needed."""
    is_stuck: bool = field(init=False, default=False)
    """Whether every token was forbidden the last time."""
    unmarked: list[int] = field(init=False)
    """Tokens that are to be marked in `repeated`."""
    _longest: int = field(init=False)
    """The number of tokens before the last one of the longest bad word."""

    def __post_init__(self) -> None:
        params = self.params
        self.rng = Random(params.seed)
        self._longest = max(map(len, self.bad_words), default=1) - 1
        self.needs_counts = bool(
            params.presence_penalty
            or params.frequency_penalty
            or params.repetition_penalty != 1
            or self._longest
            or self.grammar is not None
        )
        amounts = dict(params.logit_bias)
        amounts |= {word[0]: -math.inf for word in self.bad_words if len(word) == 1}
        self.unmarked = list(self.prompt) if params.repetition_penalty != 1 else []
        self.bias = None
        if amounts:
            self.bias = torch.tensor(list(amounts)), torch.tensor(list(amounts.values()))

    def remember(self, token: int) -> None:
        """Note that `token` was generated."""
        if self.params.presence_penalty or self.params.frequency_penalty:
            self.counts[token] += 1
        if self.params.repetition_penalty != 1:
            self.unmarked.append(token)
        if self._longest:
            self.recent = [*self.recent, token][-self._longest :]

    def forbidden(self) -> Iterator[int]:
        """The tokens that would end a text too early, or a bad word."""
        must_end = self.grammar is not None and self.grammar.must_end
        if self.num_chosen < self.params.min_tokens and not must_end:
            yield from self.forbidden_early
        if self._longest:
            for word in self.bad_words:
                before = list(word[:-1])
                if before and self.recent[-len(before) :] == before:
                    yield word[-1]


# Not frozen: one is made for each token, and a frozen one takes twice as long.
@dataclass(slots=True)
class SampledToken:
    """A chosen token; its log-probability and the most likely ones where asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _RowLogprobs:
    """The log-probabilities of one row, on their way to the host."""

    values: Fetch
    """What the chosen token has, then the most likely ones."""
    tokens: Fetch | None
    """The most likely tokens, if they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTokens:
    """The tokens of a step, one for each row of logits."""

    tokens: Tensor
    """int64 [rows], on the device; of no meaning for a row without finite numbers."""
    states: Sequence[SamplingState]
    _read: Fetch
    _logprobs: dict[int, _RowLogprobs]

    def read(self) -> list[SampledToken | None]:
        """Wait for the tokens and remember them; called once.

        None for a row whose largest value is no finite number: nothing can be chosen from it. Its
        state then `is_stuck` if that is so since every token is forbidden.
        """
        choices: list[SampledToken | None] = []
        for row, token in enumerate(self._read.result().tolist()):
            state = self.states[row]
            if token < 0:
                state.is_stuck = token == _NOTHING_LEFT
                choices.append(None)
                continue
            if state.needs_counts:
                state.remember(token)
            choices.append(_describe(token, self._logprobs.get(row)))
        return choices


@torch.inference_mode()
def choose(
    logits: Tensor, states: Sequence[SamplingState], fetch: Callable[[Tensor], Fetch]
) -> ChosenTokens:
    """Choose the next token of each row of `logits` [n, vocabulary], float32.

    `logits` are used up: to make others of their size would take as long as the arithmetic. `fetch`
    begins to bring a tensor to the host. A state that `needs_counts` is chosen for again only when
    its token was read.
    """
    logprobs = {
        row: torch.log_softmax(logits[row], dim=-1)
        for row, state in enumerate(states)
        if state.params.logprobs is not None
    }
    # Rows are changed below; log-probabilities are those of the model itself, as OpenAI's are.
    forbid_by_grammars(logits, [state.grammar for state in states])
    _add_biases(logits, states)
    _penalize_repetition(logits, states)
    _penalize(logits, states)
    _forbid(logits, states)
    tokens, peaks = _best(logits)
    drawn = [row for row, state in enumerate(states) if state.params.temperature >= _COLDEST]
    if drawn:
        rows = put_on(logits.device, drawn) if len(drawn) < len(states) else None
        own, own_peaks = (logits, peaks) if rows is None else (logits[rows], peaks[rows])
        found = draw_tokens(
            own.sub_(own_peaks[:, None]),
            [states[row].params for row in drawn],
            [states[row].rng.random() for row in drawn],
        )
        tokens = found if rows is None else tokens.index_copy(0, rows, found)
    for state in states:
        state.num_chosen += 1
    return ChosenTokens(
        tokens=tokens,
        states=states,
        _read=fetch(_or_nothing(tokens, peaks)),
        _logprobs={
            row: _row_logprobs(values, tokens[row], states[row].params.logprobs, fetch)
            for row, values in logprobs.items()
        },
    )


# On a processor both take NumPy's operations: torch's argmax takes fifty times as long, and to call
# any other of torch's on a few numbers takes ten times as long.


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The place [n] of each row's largest value, the first of several, and the value itself [n];
    what is not a number is the largest."""
    if logits.device.type == "cpu":
        values = logits.numpy()
        best = values.argmax(axis=1)
        return torch.from_numpy(best), torch.from_numpy(values[np.arange(len(best)), best])
    places = torch.argmax(logits, dim=-1, keepdim=True)
    return places[:, 0], logits.gather(1, places)[:, 0]


def _or_nothing(tokens: Tensor, peaks: Tensor) -> Tensor:
    """`tokens` [n], and `_NOTHING` for each row whose largest value is no finite number, or
    `_NOTHING_LEFT` where it is that of a token that is forbidden."""
    if tokens.device.type == "cpu":
        values = peaks.numpy()
        wrong = np.where(np.isneginf(values), _NOTHING_LEFT, _NOTHING)
        return torch.from_numpy(np.where(np.isfinite(values), tokens.numpy(), wrong))
    wrong_ = torch.where(peaks.isneginf(), _NOTHING_LEFT, _NOTHING)
    return torch.where(peaks.isfinite(), tokens, wrong_)


def _add_biases(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Add what requests want added to the logits of tokens, in place."""
    biased = [(row, *state.bias) for row, state in enumerate(states) if state.bias is not None]
    if biased:
        numbers, tokens, amounts = zip(*biased, strict=True)
        rows = torch.cat([torch.full_like(t, n) for n, t in zip(numbers, tokens, strict=True)])
        where = torch.stack([rows, torch.cat(tokens)]).to(logits.device, non_blocking=True)
        logits[where[0], where[1]] += torch.cat(amounts).to(logits.device, non_blocking=True)


def _penalize_repetition(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Make tokens of prompt and output less likely by a factor of their logits, in place."""
    for row, state in enumerate(states):
        factor = state.params.repetition_penalty
        if factor == 1:
            continue
        if state.repeated is None:
            state.repeated = logits.new_zeros(logits.shape[1], dtype=torch.bool)
        if state.unmarked:
            state.repeated[put_on(logits.device, state.unmarked)] = True
            state.unmarked = []
        own = logits[row]
        scaled = torch.where(own > 0, own / factor, own * factor)
        own.copy_(torch.where(state.repeated, scaled, own))


def _penalize(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Take the penalties of tokens that were generated before off their logits, in place."""
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[Tensor] = []
    for row, state in enumerate(states):
        if state.counts:
            params = state.params
            rows += [row] * len(state.counts)
            tokens += state.counts
            counts = torch.tensor(list(state.counts.values()), dtype=logits.dtype)
            amounts.append(params.presence_penalty + params.frequency_penalty * counts)
    if rows:
        where = put_on(logits.device, [rows, tokens])
        logits[where[0], where[1]] -= torch.cat(amounts).to(logits.device, non_blocking=True)


def _forbid(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Make tokens impossible that would end a text too early, or a bad word, in place."""
    early = [(row, token) for row, state in enumerate(states) for token in state.forbidden()]
    if early:
        rows, tokens = put_on(logits.device, list(zip(*early, strict=True)))
        logits[rows, tokens] = float("-inf")


def _row_logprobs(
    logprobs: Tensor, token: Tensor, num_top: int | None, fetch: Callable[[Tensor], Fetch]
) -> _RowLogprobs:
    own = logprobs.gather(0, token[None])
    if not num_top:
        return _RowLogprobs(fetch(own), None)
    values, tokens = torch.topk(logprobs, min(num_top, len(logprobs)))
    return _RowLogprobs(fetch(torch.cat([own, values])), fetch(tokens))


def _describe(token: int, logprobs: _RowLogprobs | None) -> SampledToken:
    if logprobs is None:
        return SampledToken(token)
    own, *values = logprobs.values.result().tolist()
    likely = logprobs.tokens.result().tolist() if logprobs.tokens is not None else []
    return SampledToken(token, own, tuple(zip(likely, values, strict=True)))
