"""Limits how many parts a request may have, before any of them is looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gossamer.serving.http.errors import ApiError

MAX_FIELDS = 200
"""The most fields of a body; OpenAI's have some forty."""


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The limits that follow from the model and the settings."""

    max_context: int
    max_choices: int


def check_sizes(values: Mapping[str, Any], limits: SizeLimits) -> None:
    """Raise `ApiError` 400 for more fields, prompts, token ids or messages than can be served."""
    if len(values) > MAX_FIELDS:
        _refuse(f"the body has {len(values)} fields; at most {MAX_FIELDS} are allowed", "body")
    prompt, messages = values.get("prompt"), values.get("messages")
    if isinstance(prompt, list):
        _check_prompt(prompt, limits)
    if isinstance(messages, list):
        parts = sum(len(content) for content in _lists_in(messages))
        # A message takes a token at the least.
        if max(len(messages), parts) > limits.max_context:
            count = f"{len(messages)} messages" + (f" of {parts} parts" if parts else "")
            raise too_long(limits.max_context, count)


def check_choices(count: int, limit: int) -> None:
    """Raise `ApiError` 400 if a call asks for more sequences than `limit`."""
    if count > limit:
        _refuse(
            f"the call asks for {count} choices (prompts times 'n'); at most {limit} are allowed, "
            "or serve with more --max-choices",
            "n",
        )


def check_length(num_prompt: int, new_tokens: int | None, max_context: int) -> None:
    """Raise `ApiError` 400 for a prompt that is empty or leaves no room in the context."""
    if num_prompt == 0:
        raise ApiError(400, "the prompt is empty; give at least one token", code="invalid_value")
    if num_prompt + (1 if new_tokens is None else new_tokens) <= max_context:
        return
    if num_prompt >= max_context:
        what = f"the prompt has {num_prompt} tokens, which leaves no room for an answer"
    else:
        what = (
            f"the prompt has {num_prompt} tokens and {new_tokens} new ones are asked for; "
            f"lower 'max_tokens' to {max_context - num_prompt} or less"
        )
    raise ApiError(
        400,
        f"the context of this model is {max_context} tokens: {what}",
        code="context_length_exceeded",
    )


def too_long(max_context: int, size: str) -> ApiError:
    """The error for a prompt that cannot fit, whatever its tokens are."""
    return ApiError(
        400,
        f"the context of this model is {max_context} tokens, which cannot hold {size}; "
        "shorten the prompt",
        code="context_length_exceeded",
    )


def _check_prompt(prompt: list[Any], limits: SizeLimits) -> None:
    if prompt and type(prompt[0]) is int:
        check_length(len(prompt), 0, limits.max_context)
        return
    check_choices(len(prompt), limits.max_choices)
    for item in prompt:
        if isinstance(item, list) and item:
            check_length(len(item), 0, limits.max_context)


def _lists_in(messages: list[Any]) -> list[list[Any]]:
    contents = (turn.get("content") for turn in messages if isinstance(turn, dict))
    return [content for content in contents if isinstance(content, list)]


def _refuse(message: str, param: str) -> None:
    raise ApiError(400, message, code="invalid_value", param=param)
