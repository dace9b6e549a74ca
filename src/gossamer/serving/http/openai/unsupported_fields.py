"""Fields of OpenAI's API that we know and do not support.

A value that asks for nothing (`tools: []`, `store: false`) is accepted, since common clients send
such defaults; any other is refused, because ignoring it would give an answer to another question.
"""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gossamer.errors import cut, unknown_name_message
from gossamer.serving.http.errors import ApiError

MAX_REPR = 60
"""The most characters of a value in a message."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_REPR

Neutral = Callable[[Any], bool]


def _anything(value: Any) -> bool:
    return True


def _never(value: Any) -> bool:
    return False


def _empty(value: Any) -> bool:
    return value in ([], {}, "")


def _one_of(*values: Any) -> Neutral:
    # 1 == True in Python, so types are compared too.
    return lambda value: any(type(value) is type(v) and value == v for v in values)


COMMON: dict[str, Neutral] = {
    "user": _anything,
    "metadata": _anything,
    "safety_identifier": _anything,
    "prompt_cache_key": _anything,
    "prompt_cache_options": _anything,
    "prompt_cache_retention": _anything,
    "service_tier": _one_of("auto", "default"),
    "store": _one_of(False),
    "length_penalty": _one_of(1, 1.0),
    "use_beam_search": _one_of(False),
    "guided_decoding_backend": _anything,
    "guided_whitespace_pattern": _never,
}

CHAT: dict[str, Neutral] = {
    **COMMON,
    "best_of": _one_of(1),
    "functions": _empty,
    "function_call": _one_of("none", "auto"),
    "modalities": _one_of(["text"]),
    "audio": _never,
    "prediction": _never,
    "moderation": _never,
    "reasoning_effort": _one_of("none"),
    "verbosity": _one_of("medium"),
    "web_search_options": _never,
    "chat_template": _never,
    "documents": _empty,
    "echo": _one_of(False),
}

COMPLETION: dict[str, Neutral] = {
    **COMMON,
    "suffix": _empty,
    "prompt_embeds": _never,
}

MESSAGE: dict[str, Neutral] = {
    "tool_calls": _empty,
    "tool_call_id": _never,
    "function_call": _never,
    "audio": _never,
    "refusal": _never,
    "annotations": _anything,
    "reasoning_content": _anything,
    "reasoning": _anything,
    "reasoning_details": _anything,
    "provider_specific_fields": _anything,
    "cache_control": _anything,
    "id": _anything,
    "timestamp": _anything,
}
"""Fields of messages: what programs keep beside the texts asks for nothing."""

PART: dict[str, Neutral] = {"cache_control": _anything, "annotations": _anything}
"""Fields of the parts of a message."""

TOOL: dict[str, Neutral] = {"strict": _anything, "cache_control": _anything}
"""Fields of a tool's function. Calls that a grammar makes keep to the schema in any case."""


def keep_supported(
    values: Mapping[str, Any],
    supported: Iterable[str],
    table: Mapping[str, Neutral],
    *,
    where: str = "",
) -> dict[str, Any]:
    """Drop nulls and neutral fields from `values`; raise `ApiError` 400 at the first other one.

    `where` is put before the name of a field in messages, e.g. `messages[2].`.
    """
    known = set(supported)
    kept = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in known:
            kept[name] = value
        elif name not in table:
            message = unknown_name_message("field", name, known)
            place = f" (in {where.rstrip('.')})" if where else ""
            raise ApiError(400, message + place, code="unknown_parameter", param=where + cut(name))
        elif not table[name](value):
            raise ApiError(
                400,
                f"{where}{name} = {shown(value)} is not supported; leave the field out",
                code="unsupported_parameter",
                param=where + cut(name),
            )
    return kept


def shown(value: Any) -> str:
    """Cut `repr(value)` to a length fit for a message; of a large value, little is looked at."""
    try:
        return cut(_REPR.repr(value), MAX_REPR)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"
