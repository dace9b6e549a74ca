"""Carries out the decisions about fields that are known and not supported (`field_rules`)."""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from gossamer.errors import cut, unknown_name_message
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.field_rules import (
    CHAT,
    COMPLETION,
    MESSAGE,
    OTHERS,
    PART,
    STREAM,
    TOOL,
    Neutral,
    Rule,
)

__all__ = ["CHAT", "COMPLETION", "MESSAGE", "PART", "STREAM", "TOOL", "Neutral", "keep_supported"]

MAX_REPR = 60
"""The most characters of a value in a message."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_REPR


def keep_supported(
    values: Mapping[str, Any],
    supported: Iterable[str],
    table: Mapping[str, Neutral],
    *,
    where: str = "",
) -> dict[str, Any]:
    """Drop nulls and what `table` takes from `values`; raise `ApiError` 400 at the first other one.

    `where` is put before the name of a field in messages, e.g. `messages[2].`.
    """
    known = set(supported)
    kept = {}
    for name, value in values.items():
        if value is None:
            continue
        rule = table.get(name, table.get(OTHERS))
        if name in known:
            kept[name] = value
        elif rule is None:
            message = unknown_name_message("field", name, known)
            place = f" (in {where.rstrip('.')})" if where else ""
            raise ApiError(400, message + place, code="unknown_parameter", param=where + cut(name))
        elif not rule(value):
            why = f" ({rule.reason.replace('`', '')})" if isinstance(rule, Rule) else ""
            raise ApiError(
                400,
                f"{where}{name} = {shown(value)} is not supported{why}; leave the field out",
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
