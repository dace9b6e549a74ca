"""Bounds what a request says about tools, before templates and grammars work on it."""

import re
from typing import Any

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.unsupported_fields import shown

MAX_TOOLS = 128
"""The most tools of a request; OpenAI's number."""
MAX_CALLS = 128
"""The most calls of one message."""
MAX_DEPTH = 32
"""The most levels of lists and objects in parameters, arguments and variables of a template."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def invalid(param: str, message: str) -> ApiError:
    """Make the error for a value that is not as it must be."""
    return ApiError(400, message, code="invalid_value", param=param)


def check_name(name: Any, where: str) -> str:
    """Return the name of a tool; raises `ApiError` 400 for what is none."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        shape = "1 to 128 letters, digits, '_', '-' or '.'"
        raise invalid(where, f"{where} = {shown(name)} must be {shape}")
    return name


def check_depth(value: Any, where: str) -> None:
    """Raise `ApiError` 400 for what is nested too deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [each for item in level for each in _inside(item)]
        if not level:
            return
    raise invalid(where, f"{where} is nested deeper than {MAX_DEPTH} levels; flatten it")


def count_characters(value: Any) -> int:
    """Count the characters of all texts in a JSON value, keys included."""
    count, rest = 0, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, dict):
            count += sum(map(len, item))
        rest += _inside(item)
    return count


def _inside(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return list(item) if isinstance(item, list | tuple) else []
