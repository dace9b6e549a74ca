"""The engine as a backend of lm-evaluation-harness: one face for each model, one batch for all."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gossamer.errors import UsageError
from gossamer.evaluation.scorer import Continuation, Model, ScoredText, Scorer
from gossamer.serving.core.messages import SamplingParams

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a task may say of how answers are drawn."""
NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "early_stopping": False}
"""What asks for nothing."""
ANSWER_TOKENS = 256
"""The most tokens of an answer where a task does not say it, as with the harness's own backends."""


class Answers:
    """Keeps what all models have said, since all tasks ask each model the same.

    The first model that is asked has all others asked in the same batch.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._scores: dict[Continuation, dict[Model, ScoredText]] = {}
        self._texts: dict[tuple[tuple[int, ...], SamplingParams], dict[Model, str]] = {}

    def scores(self, model: Model, pairs: Sequence[Continuation]) -> list[ScoredText]:
        """Score pairs, those that were not yet with all models."""
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self._scores))
        if missing:
            found = self.scorer.logprobs(missing)
            for number, pair in enumerate(missing):
                self._scores[pair] = {each: found[each][number] for each in found}
        return [self._scores[pair][model] for pair in pairs]

    def texts(
        self, model: Model, asked: Sequence[tuple[tuple[int, ...], SamplingParams]]
    ) -> list[str]:
        """Answer prompts, those that were not yet with all models."""
        missing = list(dict.fromkeys(each for each in asked if each not in self._texts))
        if missing:
            found = self.scorer.answers([p for p, _ in missing], [s for _, s in missing])
            for number, each in enumerate(missing):
                self._texts[each] = {name: found[name][number] for name in found}
        return [self._texts[each][model] for each in asked]


class GossamerLM(TemplateLM):
    """One model of an engine, as lm-evaluation-harness asks it."""

    def __init__(self, answers: Answers, model: Model, tokenizer: Any, seed: int = 0) -> None:
        super().__init__()
        self._answers = answers
        self._model = model
        self.tokenizer = tokenizer
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        """Return the token that ends a text."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text that has no context."""
        begin: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def max_length(self) -> int:
        """Return the most tokens of context and text."""
        return self._answers.scorer.max_context

    @property
    def tokenizer_name(self) -> str:
        """Return the name under which the harness keeps laid-out prompts."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Lay a conversation out with the model's template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Encode a text as the harness's own backend for transformers does."""
        if add_special_tokens is None:
            # A chat template has written the first token already.
            headed = has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
            add_special_tokens = not headed
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def _loglikelihood_tokens(
        self, requests: Iterable[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Continuation(tuple(context), tuple(text)) for _, context, text in requests]
        found = self._answers.scores(self._model, pairs)
        return [(each.logprob, each.is_greedy) for each in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts, longer ones in windows that each see as much as fits."""
        windows: list[list[Continuation]] = []
        for (text,) in (request.args for request in requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                # A window has one token more than the model is to see of it.
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            split = map(make_disjoint_window, parts)
            windows.append([Continuation(tuple(before), tuple(after)) for before, after in split])
        found = iter(self._answers.scores(self._model, [pair for own in windows for pair in own]))
        return [sum(next(found).logprob for _ in own) for own in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer prompts, each up to its first stop text.

        A prompt that is asked again is drawn again, each time with the next seed.
        """
        asked, stops = [], []
        times: Counter[tuple[tuple[int, ...], SamplingParams]] = Counter()
        for context, options in (request.args for request in requests):
            sampling = self._sampling(options)
            assert sampling.max_tokens is not None
            room = self.max_length - sampling.max_tokens
            if room < 1:
                raise UsageError(
                    f"a task asks for answers of {sampling.max_tokens} tokens, and the context is "
                    f"{self.max_length}; give a larger --max-context"
                )
            prompt = tuple(self.tok_encode(context)[-room:])
            seed = self._seed + times[prompt, sampling]
            times[prompt, sampling] += 1
            if sampling.temperature:
                asked.append((prompt, replace(sampling, seed=seed)))
            else:  # Greedy answers are all the same, and asked for once.
                asked.append((prompt, sampling))
            stops.append(list(sampling.stop))
        texts = self._answers.texts(self._model, asked)
        return [
            postprocess_generated_text(text, stop, None)
            for text, stop in zip(texts, stops, strict=True)
        ]

    def _sampling(self, options: dict[str, Any]) -> SamplingParams:
        """What a task's `generation_kwargs` say; raises `UsageError` for what cannot be done."""
        given = normalize_gen_kwargs(options, ANSWER_TOKENS)
        end = self.tokenizer.decode(self.eot_token_id)
        stop = tuple(filter(None, handle_stop_sequences(given.pop("until", None), eos=end)))
        most = given.pop("max_gen_toks")
        draws = given.pop("do_sample", False)
        fields = {name: given.pop(name) for name in SAMPLING if given.get(name) is not None}
        for name, value in given.items():
            if value is not None and (name not in NEUTRAL or NEUTRAL[name] != value):
                raise UsageError(f"a task wants {name}={value!r} for its answers; it is not known")
        if not draws:
            fields["temperature"] = 0.0
        return SamplingParams(max_tokens=most, stop=stop, seed=self._seed, **fields)
