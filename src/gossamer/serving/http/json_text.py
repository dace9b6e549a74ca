"""Writes large replies as JSON in small steps: one `json.dumps` would let no other thread run."""

import json
from collections.abc import Iterator
from typing import Any

STEP = 64
"""The entries of a list that are written in one call."""


def json_bytes(value: Any) -> bytes:
    """Write `value` as Starlette would."""
    return "".join(_pieces(value)).encode()


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        sign = "{"
        for name, each in value.items():
            yield f"{sign}{_dumps(name)}:"
            yield from _pieces(each)
            sign = ","
        yield "}" if value else "{}"
    elif isinstance(value, list) and len(value) > STEP:
        sign = "["
        for start in range(0, len(value), STEP):
            yield sign + _dumps(value[start : start + STEP])[1:-1]
            sign = ","
        yield "]"
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        sign = "["
        for each in value:
            yield sign
            yield from _pieces(each)
            sign = ","
        yield "]"
    else:
        yield _dumps(value)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
