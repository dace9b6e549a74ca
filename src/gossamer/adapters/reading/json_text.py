"""JSON that others wrote, read within bounds."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

Pairs = Callable[[list[tuple[str, Any]]], dict[str, Any]]

_MOST_DIGITS = 20


def count_values(content: bytes) -> int:
    """Bound the number of values in a JSON text from above, without parsing it.

    The parser holds Python's lock for as long as it takes, so a text is judged before.
    """
    return 1 + sum(map(content.count, (b",", b"[", b"{")))


def parse(content: bytes, pairs: Pairs | None = None) -> Any:
    """Parse a JSON text. `pairs` makes an object of its pairs.

    Raises `ValueError` with one line that says what is wrong.
    """
    try:
        return _decoder(pairs).decode(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@cache
def _decoder(pairs: Pairs | None) -> json.JSONDecoder:
    return json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=pairs)


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def depth(value: Any) -> int:
    """Count how many lists and objects lie within each other."""
    found, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        found += 1
        level = [
            child for item in level for child in (item.values() if isinstance(item, dict) else item)
        ]
    return found
