"""Asks one engine for all models at a time: log-likelihoods of given texts, and answers."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gossamer.llm import LLM, Completion
from gossamer.serving.core.messages import SamplingParams

WINDOW = 4_096
"""The most texts that are submitted at a time."""

Model = str | None
"""The name of an adapter; None: the base model."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """What a text is to a model, behind a context."""

    logprob: float
    """Sum of the natural logarithms of its tokens' probabilities."""
    is_greedy: bool
    """Whether each of its tokens is the likeliest one."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A context and the text that is scored behind it, as token ids; both have at least one."""

    context: tuple[int, ...]
    text: tuple[int, ...]

    def cut(self, most: int) -> "Continuation":
        """Leave the beginning of what is longer than `most` tokens out, and one token of context in
        any case."""
        text = self.text[-(most - 1) :]
        room = most - len(text)
        before = (*self.context, *self.text[: len(self.text) - len(text)])
        return Continuation(before[-room:], text)


class Scorer:
    """Scores for several models in one batch.

    Pairs with the same context are shared out over two calls: the first computes each context once
    for each model, and the others find it in the prefix cache.
    """

    def __init__(self, llm: LLM, models: Sequence[Model]) -> None:
        self._llm = llm
        self.models = tuple(models)

    @property
    def max_context(self) -> int:
        """Return the most tokens of context and text."""
        return self._llm.engine.max_context

    def logprobs(self, pairs: Sequence[Continuation]) -> dict[Model, list[ScoredText]]:
        """Score all pairs with each model, in the order of the pairs."""
        found: dict[tuple[Model, Continuation], ScoredText] = {}
        fitting = [pair.cut(self.max_context) for pair in pairs]
        for first, others in _windows(fitting, self.models):
            for batch in (first, others):
                found.update(zip(batch, self._score(batch), strict=True))
        return {model: [found[model, pair] for pair in fitting] for model in self.models}

    def answers(
        self, prompts: Sequence[tuple[int, ...]], sampling: Sequence[SamplingParams]
    ) -> dict[Model, list[str]]:
        """Answer all prompts with each model."""
        found: dict[Model, list[str]] = {model: [] for model in self.models}
        size = max(1, WINDOW // len(self.models))
        for begin in range(0, len(prompts), size):
            end = begin + size
            own, params = list(prompts[begin:end]), list(sampling[begin:end])
            done = self._llm.generate(
                own * len(self.models),
                adapter=[model for model in self.models for _ in own],
                sampling=params * len(self.models),
            )
            for number, model in enumerate(self.models):
                low = number * len(own)
                found[model] += [each.text for each in done[low : low + len(own)]]
        return found

    def _score(self, batch: Sequence[tuple[Model, Continuation]]) -> Iterator[ScoredText]:
        if not batch:
            return iter(())
        done = self._llm.generate(
            [(*pair.context, *pair.text) for _, pair in batch],
            adapter=[model for model, _ in batch],
            sampling=[
                SamplingParams(
                    max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=len(pair.context)
                )
                for _, pair in batch
            ],
        )
        return map(_scored, done)


def _scored(completion: Completion) -> ScoredText:
    told = [token for token in completion.prompt_logprobs or () if token is not None]
    return ScoredText(sum(token.logprob for token in told), all(token.rank == 1 for token in told))


def _windows(
    pairs: Sequence[Continuation], models: Sequence[Model]
) -> Iterator[tuple[list[tuple[Model, Continuation]], list[tuple[Model, Continuation]]]]:
    """Share pairs out: one of each context, for each model, and then the others."""
    by_context: dict[tuple[int, ...], dict[Continuation, None]] = defaultdict(dict)
    for pair in pairs:
        by_context[pair.context][pair] = None
    first: list[tuple[Model, Continuation]] = []
    others: list[tuple[Model, Continuation]] = []
    for same in by_context.values():
        one, *rest = same
        first += [(model, one) for model in models]
        others += [(model, pair) for model in models for pair in rest]
        if len(first) + len(others) >= WINDOW:
            yield first, others
            first, others = [], []
    yield first, others
