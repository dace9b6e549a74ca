"""Parses `chat_template_kwargs`: values that a model's chat template reads beside the messages."""

import inspect
from functools import lru_cache
from typing import Any

from gossamer.errors import cut
from gossamer.serving.http.openai.chat.bounds import check_depth, invalid

MAX_VARIABLES = 32
"""The most values; templates read a few."""
_NAME = "chat_template_kwargs"


def parse_variables(value: Any) -> dict[str, Any]:
    """Parse an object of values by name; raises `ApiError` 400 for names that are not a template's.

    What `apply_chat_template` itself is told, such as `tokenize`, is the server's to say.
    """
    if not isinstance(value, dict):
        raise invalid(_NAME, f"'{_NAME}' must be an object such as {{\"enable_thinking\": false}}")
    if len(value) > MAX_VARIABLES:
        raise invalid(
            _NAME, f"'{_NAME}' has {len(value)} values; at most {MAX_VARIABLES} are allowed"
        )
    for name in value:
        if not name.isidentifier() or name in _reserved():
            where = f"{_NAME}.{cut(name)}"
            raise invalid(where, f"{where} is no variable of a chat template; leave it out")
    check_depth(value, _NAME)
    return value


@lru_cache(1)
def _reserved() -> frozenset[str]:
    from transformers import PreTrainedTokenizerBase

    known = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return frozenset(known) | {"messages", "conversations", "raise_exception", "strftime_now"}
