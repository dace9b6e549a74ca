"""Finds out whether a request makes sense at all, before it meets its neighbours."""

import math
from dataclasses import dataclass

from gossamer.errors import CapacityError, RequestError
from gossamer.serving.core.messages import Request, SamplingParams

_AT_LEAST = {"min_tokens": 0, "temperature": 0, "top_k": 0, "top_p": 0, "min_p": 0}
_AT_MOST = {"top_p": 1, "min_p": 1}
_FINITE = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
MAX_BIAS = 100.0
"""OpenAI's bound of `logit_bias`, which bans a token or forces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Limits what a request may ask for."""

    max_context: int
    vocab_size: int
    block_tokens: int
    block_bytes: int


def check_request(request: Request, limits: EngineLimits, num_blocks: int) -> int:
    """Return how many tokens `request` may get in a pool of `num_blocks`. Raises as all below."""
    check_prompt(request, max_context=limits.max_context, vocab_size=limits.vocab_size)
    check_sampling(request.sampling)
    check_named_tokens(request.sampling, vocab_size=limits.vocab_size)
    capacity = num_blocks * limits.block_tokens
    return max_new_tokens(request, max_context=limits.max_context, capacity=capacity)


def check_prompt(request: Request, *, max_context: int, vocab_size: int) -> None:
    """Raise `RequestError` for a prompt that is empty, too long or holds impossible tokens."""
    tokens = request.prompt_token_ids
    if not tokens:
        raise RequestError("the prompt is empty", param="prompt")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise RequestError(f"prompt token ids must lie in 0..{vocab_size - 1}", param="prompt")
    # A prompt that is only to be scored may fill the context.
    if len(tokens) >= max_context + (request.sampling.max_tokens == 0):
        raise RequestError(
            f"the prompt has {len(tokens)} tokens and the context length is {max_context}; "
            "shorten it",
            param="prompt",
        )


def check_sampling(params: SamplingParams) -> None:
    """Raise `RequestError` that names the field, its value and the range."""
    for field in _FINITE:
        _require(params, field, math.isfinite(getattr(params, field)), "a finite number")
    for field, least in _AT_LEAST.items():
        _require(params, field, getattr(params, field) >= least, f"at least {least}")
    for field, most in _AT_MOST.items():
        _require(params, field, getattr(params, field) <= most, f"at most {most}")
    _require(params, "stop", all(params.stop), "texts of at least one character")
    _require(params, "bad_words", all(params.bad_words), "texts of at least one character")
    _require(params, "repetition_penalty", params.repetition_penalty > 0, "more than 0")
    if params.logprobs is not None:
        _require(params, "logprobs", params.logprobs >= 0, "at least 0")
    if params.prompt_logprobs is not None:
        _require(params, "prompt_logprobs", params.prompt_logprobs >= 0, "at least 0")
    if params.max_tokens is not None:
        _require(params, "max_tokens", params.max_tokens >= 0, "at least 0")
        limit = f"at most max_tokens={params.max_tokens}"
        _require(params, "min_tokens", params.min_tokens <= params.max_tokens, limit)


def check_named_tokens(params: SamplingParams, *, vocab_size: int) -> None:
    """Raise `RequestError` for a token that is named and does not exist, or a bias out of range."""
    for field in ("stop_token_ids", "logit_bias"):
        for token in getattr(params, field):
            if not 0 <= token < vocab_size:
                message = f"{field} names the token {token}; ids lie in 0..{vocab_size - 1}"
                raise RequestError(message, param=field)
    if (params.prompt_logprobs or 0) > vocab_size:
        message = f"prompt_logprobs={params.prompt_logprobs} is more than the {vocab_size} tokens"
        raise RequestError(f"{message} that there are", param="prompt_logprobs")
    for token, bias in params.logit_bias.items():
        # Not a number is in no range.
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise RequestError(
                f"logit_bias of token {token} is {bias:g}; it must lie in -100..100",
                param="logit_bias",
            )


def max_new_tokens(request: Request, *, max_context: int, capacity: int) -> int:
    """Return how many tokens `request` may get, in a pool for `capacity` tokens.

    Raises `RequestError` if it asks for more than its context length leaves, `CapacityError` for
    more than the pool holds.
    """
    prompt, asked = len(request.prompt_token_ids), request.sampling.max_tokens
    if asked is not None and prompt + asked > max_context:
        raise RequestError(
            f"{prompt} prompt tokens and max_tokens={asked} exceed the context length of "
            f"{max_context}; ask for at most {max_context - prompt}",
            param="max_tokens",
        )
    new = 1 if asked is None else asked
    if prompt + new > capacity:
        raise CapacityError(
            f"{prompt} prompt tokens and {new} new ones exceed the memory for "
            f"{capacity} tokens; ask for fewer or serve with more --memory"
        )
    return asked if asked is not None else min(max_context, capacity) - prompt


def _require(params: SamplingParams, field: str, is_good: bool, wanted: str) -> None:
    if not is_good:
        value = getattr(params, field)
        raise RequestError(f"{field}={value!r} must be {wanted}", param=field)
