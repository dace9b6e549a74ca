"""Judges decoded JSON: whether it is a call of an offered tool, or several."""

import json
from collections.abc import Iterator
from typing import Any, Never

from gossamer.serving.tokenization.tool_calls.parts import AnswerPart, CallArguments, CallStart

ARGUMENT_KEYS = ("arguments", "parameters")
"""The keys under which models write arguments."""


def parse_calls(
    text: str, names: frozenset[str], *, needs_arguments: bool = False
) -> list[AnswerPart] | None:
    """Read `text` as one call or a list of calls; None if any of it is none.

    A call is an object with the `name` of an offered tool, one of `names`, and its arguments, an
    object; or such an object under `function`. `needs_arguments`: one without any is no call.
    """
    try:
        return calls_of(decode_json(text), names, needs_arguments=needs_arguments)
    except (ValueError, RecursionError):
        return None


def calls_of(
    value: Any, names: frozenset[str], *, needs_arguments: bool = False
) -> list[AnswerPart] | None:
    """Read decoded JSON as `parse_calls` does. Raises `ValueError` for what no JSON can say."""
    items = value if isinstance(value, list) else [value]
    parts: list[AnswerPart] = []
    for item in items:
        call = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(call, dict):
            return None
        name = call.get("name")
        found: Any = next(_arguments(call), None if needs_arguments else {})
        if not isinstance(name, str) or name not in names or not isinstance(found, dict):
            return None
        parts += [CallStart(name), CallArguments(encode_json(found))]
    return parts or None


def _arguments(call: dict[str, Any]) -> Iterator[Any]:
    for key in ARGUMENT_KEYS:
        if key in call:
            value = call[key]
            # Some models write the object as a text.
            yield decode_json(value) if isinstance(value, str) else value


def decode_json(text: str) -> Any:
    """Decode strict JSON. Raises `ValueError`, or `RecursionError` for what is nested too deep."""
    return json.loads(text, parse_constant=_refuse)


def encode_json(value: Any) -> str:
    """Encode as strict JSON. Raises `ValueError` for what it cannot say."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")
