"""Defines what crosses the border of the engine: requests in, events out.

Every request that `Engine.submit` accepts ends in exactly one final event: `Finished` or `Failed`.
Plain frozen dataclasses; nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gossamer.errors import GossamerError

FinishReason = Literal["stop", "length", "cancelled"]

DEFAULT_TENANT = "default"
"""The tenant of requests that name none, such as all requests to a server without keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Says how to choose the next token. The defaults are OpenAI's."""

    max_tokens: int | None = None
    """New tokens at most; None: as many as the context length leaves. 0: the prompt is computed
    alone, to be scored."""
    min_tokens: int = 0
    """End-of-text and stop conditions are not honoured before this many new tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    """Same seed, same request: same tokens, whatever else is in the batch."""
    stop: tuple[str, ...] = ()
    """Texts that end generation; not part of the output."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end generation as the end-of-text token does."""
    include_stop: bool = False
    """Whether what ended generation, a text of `stop` or a token, is part of the output's text."""
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Positive logits of tokens in the prompt or the output are divided by it, others multiplied
    (CTRL, arXiv 1909.05858)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """What is added to the logits of tokens, by token id."""
    bad_words: tuple[str, ...] = ()
    """Texts that are not to be generated: the last token of each way to write one is forbidden
    where the others have just been generated."""
    skip_special_tokens: bool = True
    """Whether special tokens are no part of the output's text."""
    kept_special_tokens: tuple[int, ...] = ()
    """Special tokens that are part of the text all the same, such as those that mark a call."""
    logprobs: int | None = None
    """None: no log-probabilities; k: of the chosen token and of the k most likely ones."""
    prompt_logprobs: int | None = None
    """None: no log-probabilities of the prompt; k: of each of its tokens behind those before it,
    but the first, and of the k most likely ones."""
    prompt_logprobs_from: int = 0
    """The number of tokens of the prompt that are given no log-probabilities. What requests have in
    common there is computed once, and found in the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks for one sequence."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    adapter: str | None = None
    """Name of the adapter; None: the base model alone."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tenant: str = DEFAULT_TENANT
    """The tenant whose request it is: the unit of fairness and quota."""
    priority: int = 0
    """Among the requests of a tenant, those with a lower number start first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Gives a token the natural logarithm of its probability at temperature 1."""

    token_id: int
    text: str
    """The text of the token alone; U+FFFD stands for what is no whole character."""
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    """(token id, text, log-probability) of the most likely tokens, best first."""
    rank: int | None = None
    """For a token of a prompt: its place among all tokens, the most likely being 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Brings new output; `text` may be empty while a character or a stop text is undecided."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One for each token of the prompt, None for the first and those before `prompt_logprobs_from`;
    in the first event of a request that asks for them, which brings nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Ends a request that ran. All its text has been sent in `Tokens` events."""

    request_id: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were in the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Ends a request that could not be run, or not to its end."""

    request_id: str
    error: GossamerError


Event = Tokens | Finished | Failed
