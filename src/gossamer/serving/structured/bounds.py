"""Bounds what is asked for before a compiler sees it: requests are hostile until judged."""

import json
import re
from collections.abc import Iterator
from typing import Any

from gossamer.serving.structured.formats import with_plain_formats

MAX_CHARACTERS = 65_536
"""The most characters of a schema, an expression, a grammar, or all choices together."""
MAX_DEPTH = 64
"""The most levels of a schema's JSON, and of brackets in an expression or a grammar."""
MAX_PROPERTIES = 1_000
"""The most properties of all objects of a schema together."""
MAX_RULES = 1_000
"""The most rules of a grammar."""
MAX_ONE_OF = 100
MAX_ONE_OF_PARTS = 300
"""The most that a schema has of `oneOf`, and of parts of them all: each two parts are compared, by
way of all that they refer to, to prove that they exclude each other."""
MAX_MET_PATTERNS = 8
"""The most texts by `pattern` or `format` in a schema of which parts meet (`allOf`, or what stands
beside `$ref`): to find out whether a text can match several takes time and memory that double with
each."""
MAX_COUNT = 100_000
"""The most that a number in a schema may demand: of items, properties or characters."""

COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_NOTES = ("$defs", "definitions", "title", "description", "default", "examples", "deprecated")
"""Names that demand nothing."""
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_RULE = re.compile(
    r"^\s*[!?]?[\w.-]+(\{[^}]*\})?(\.-?\d+)?\s*(\[[^\]]*\]\s*)*(:|::=)", re.MULTILINE
)


class FormError(ValueError):
    """A form that cannot be kept to; the message says why, and where in it."""


def check_size(text: str) -> None:
    """Raise `FormError` for a text that is too long."""
    if len(text) > MAX_CHARACTERS:
        raise FormError(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")


def check_brackets(text: str) -> None:
    """Raise `FormError` for brackets in more levels than a compiler should follow.

    Brackets within quotes count too: to judge quotes would mean to parse the text.
    """
    depth = 0
    for character in text:
        depth = max(0, depth + _BRACKETS.get(character, 0))
        if depth > MAX_DEPTH:
            raise FormError(f"its brackets are in more than {MAX_DEPTH} levels")


def check_rules(text: str) -> None:
    """Raise `FormError` for a grammar of too many rules."""
    count = sum(1 for _ in _RULE.finditer(text))
    if count > MAX_RULES:
        raise FormError(f"it has {count} rules; at most {MAX_RULES} are allowed")


def parse_schema(text: str) -> Any:
    """Parse the JSON of a schema, with its formats as the library is to have them.

    Raises `FormError` for what is no JSON, is nested too deeply, has too many properties, or
    demands too large a number.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormError(f"it is no JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise FormError("a JSON Schema is an object, or true or false")
    # Too deep ones are refused below, before they are looked through.
    if all(len(path) <= MAX_DEPTH for path, _ in walk(schema)):
        schema = with_plain_formats(schema)
    num_properties = num_one_of = num_parts = num_patterns = 0
    parts_meet = False
    for path, value in walk(schema):
        if len(path) > MAX_DEPTH:
            raise FormError(f"it is nested in more than {MAX_DEPTH} levels")
        if not isinstance(value, dict):
            continue
        properties = value.get("properties")
        num_properties += len(properties) if isinstance(properties, dict) else 0
        if num_properties > MAX_PROPERTIES:
            raise FormError(f"it has more than {MAX_PROPERTIES} properties")
        if isinstance(parts := value.get("oneOf"), list):
            num_one_of, num_parts = num_one_of + 1, num_parts + len(parts)
        if num_one_of > MAX_ONE_OF or num_parts > MAX_ONE_OF_PARTS:
            limit = f"{MAX_ONE_OF} are allowed, of {MAX_ONE_OF_PARTS} parts together"
            raise FormError(f"it has too many of oneOf: at most {limit}")
        num_patterns += ("pattern" in value) + ("format" in value)
        parts_meet = parts_meet or _parts_meet(value)
        if parts_meet and num_patterns > MAX_MET_PATTERNS:
            raise FormError(
                f"it has parts that meet (allOf, or what is beside $ref) and more than "
                f"{MAX_MET_PATTERNS} of pattern and format"
            )
        for name in COUNTS:
            number = value.get(name)
            if isinstance(number, int | float) and number > MAX_COUNT:
                raise FormError(f"{name} at {pointer(path)} is more than {MAX_COUNT}")
    return schema


def _parts_meet(schema: dict[str, Any]) -> bool:
    """Whether a value has to keep to several parts of `schema` at once."""
    parts = schema.get("allOf")
    if "$ref" not in schema and not isinstance(parts, list):
        return False
    demands = [name for name in schema if name not in _NOTES]
    return len(demands) > 1 or (isinstance(parts, list) and len(parts) > 1)


def walk(schema: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """List all values within a JSON value, itself first, each with its path."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if len(path) > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            waiting += [((*path, key), child) for key, child in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*path, str(n)), child) for n, child in reversed(list(enumerate(value)))]


def pointer(path: tuple[str, ...]) -> str:
    """Write a path as a JSON pointer; the whole is "#"."""
    steps = (step.replace("~", "~0").replace("/", "~1") for step in path)
    return "/".join(("#", *steps))
