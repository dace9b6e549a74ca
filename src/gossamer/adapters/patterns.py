"""PEFT's rule for which key of `rank_pattern` or `alpha_pattern` applies to a module.

A key is a regular expression that must match the whole module path or its end after a dot; the
first key that matches wins (`peft.utils.other.get_pattern_key`).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from gossamer.errors import AdapterFormatError

T = TypeVar("T")

_MAX_LENGTH = 1000
_MAX_REPEATS = 3
# Regular expressions come with the adapter, and some take exponential time to fail.
_UNBOUNDED = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\d*\})")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)(?:[*+]|\{)")
_LITERAL = re.compile(r"[\w.-]+")


def value_for(pattern: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first key of `pattern` that matches `module`, else `default`.

    Raises:
        AdapterFormatError: a key is not a regular expression, or one that could run for ages.
    """
    for key, value in pattern.items():
        if _matches(key, module):
            return value
    return default


def check_keys(field: str, pattern: Mapping[str, Any]) -> None:
    """Raise `AdapterFormatError` for a key that cannot be used as a pattern."""
    for key in pattern:
        try:
            _compiled(key)
        except AdapterFormatError as error:
            raise AdapterFormatError(f"{field}: {error}") from None


def _matches(key: str, module: str) -> bool:
    if _LITERAL.fullmatch(key):
        return _matches_literal(key, module)
    return _compiled(key).match(module) is not None


def _matches_literal(key: str, module: str) -> bool:
    """Same answer as the regular expression, without compiling one per module of a large model."""
    before = len(module) - len(key)
    if before < 0 or (before > 0 and module[before - 1] != "."):
        return False
    end = module[before:]
    return end == key or all(k in (".", c) for k, c in zip(key, end, strict=True))


@lru_cache(maxsize=4096)
def _compiled(key: str) -> re.Pattern[str]:
    if len(key) > _MAX_LENGTH:
        raise AdapterFormatError(f"the pattern '{key[:40]}...' is longer than {_MAX_LENGTH}")
    if len(_UNBOUNDED.findall(key)) > _MAX_REPEATS or _REPEATED_GROUP.search(key):
        raise AdapterFormatError(
            f"the pattern '{key}' repeats too much (more than {_MAX_REPEATS} times * or +, or a "
            "repeated group); write simpler ones"
        )
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterFormatError(f"the pattern '{key}' is no regular expression: {error}") from None
