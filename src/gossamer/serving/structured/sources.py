"""Writes forms as grammars of the library, and finds the place of what it refuses."""

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from gossamer.errors import cut
from gossamer.serving.structured.bounds import (
    FormError,
    check_brackets,
    check_rules,
    parse_schema,
    pointer,
)

WHITESPACE = r"[ \t\n\r]{1,40}"
"""What may stand between the parts of a JSON document. Bounded, since a small model that has begun
with blanks may go on with them for ever."""
MAX_REASON = 300
"""The most characters of the library's reason in a message."""
MAX_CHOICE = 4_096
"""The most characters of a choice."""
_MAX_TRIES = 300
"""The most parts of a schema that are compiled alone to find the one that is refused."""

_JSON_OPTIONS: Any = {
    "whitespace_pattern": WHITESPACE,
    # What a schema might say of itself: a document is to keep to all of it.
    "lenient": False,
    "coerce_one_of": False,
}
_GBNF = re.compile(r"::=")
_CHILDREN = ("$defs", "definitions", "properties", "patternProperties")
_CHILD_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_CHILD_SCHEMAS = ("items", "additionalProperties", "additionalItems")


def grammar_of(kind: str, text: str) -> str:
    """Write `text`, a form of the `kind` of `StructuredOutputs`, as a grammar of the library.

    Raises `FormError` for what is too large or no such form; what the library finds when it
    compiles the grammar comes on top.
    """
    if kind == "json":
        return _of_schema(parse_schema(text))
    if kind == "choice":
        return _of_choices(json.loads(text))
    check_brackets(text)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    check_rules(text)
    if _GBNF.search(text):
        try:
            text = gbnf_to_lark(text)
        except Exception as error:
            # The library raises all sorts, a rule that is missing as a plain `Exception`.
            raise FormError(f"it is no GBNF grammar: {cut(str(error), MAX_REASON)}") from None
    return LLMatcher.grammar_from_lark(text)


def framed(grammar: str, frame: str) -> str:
    """Put a grammar of the library in the place of `@form` in `frame`, one in Lark's notation."""
    # The library's own notation is JSON; the other is Lark's.
    is_own = grammar.startswith("{")
    [form] = json.loads(grammar)["grammars"] if is_own else [{"lark_grammar": grammar}]
    return json.dumps({"grammars": [{"lark_grammar": frame}, {**form, "name": "form"}]})


def place_of(kind: str, text: str, reason: str) -> str:
    """Say why, and where, a form was refused; `reason` is the library's."""
    reason = _plain(reason)
    if kind != "json":
        return reason
    path = _refused_part(parse_schema(text), reason)
    return f"{reason}, at {pointer(path)}" if path else reason


def _of_schema(schema: Any) -> str:
    if isinstance(schema, bool):
        # The library takes objects alone.
        schema = {} if schema else {"not": {}}
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)


def _of_choices(choices: list[str]) -> str:
    longest = max(map(len, choices))
    if longest > MAX_CHOICE:
        raise FormError(f"a choice has {longest} characters; at most {MAX_CHOICE} are allowed")
    # One terminal: as alternatives of a rule, each would be followed by itself.
    return LLMatcher.grammar_from_lark(
        f"start: CHOICE\nCHOICE: {' | '.join(map(_quoted, choices))}"
    )


def _quoted(text: str) -> str:
    """`text` as a string of Lark's notation, which is JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _plain(reason: str) -> str:
    """The library's reason in one sentence of words that users know."""
    found = re.search(r"Unimplemented keys: \[(.*)\]", reason)
    if found:
        names = found[1].replace('"', "'")
        return f"{names} of JSON Schema cannot be kept to while an answer is written"
    if "NoExtension" in reason:
        return "nothing can be written that has this form"
    reason = re.sub(r"Enable 'coerce_one_of'.*", "", reason.split("<state>")[0])
    return cut(" ".join(reason.split()), MAX_REASON)


def _refused_part(schema: Any, reason: str) -> tuple[str, ...]:
    """The path of the smallest part of `schema` that is refused for the same reason alone."""
    shared = {}
    if isinstance(schema, dict):
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    path: tuple[str, ...] = ()
    tries = 0
    while True:
        for step, child in _parts(schema):
            tries += 1
            if tries > _MAX_TRIES:
                return path
            own = {**shared, **child} if isinstance(child, dict) else child
            if _plain(LLMatcher.validate_grammar(_of_schema(own))) == reason:
                path, schema = (*path, *step), child
                break
        else:
            return path


def _parts(schema: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas directly within `schema`, definitions first, each with its path."""
    if not isinstance(schema, dict):
        return
    for name in _CHILDREN:
        children = schema.get(name)
        if isinstance(children, dict):
            yield from (
                ((name, key), child) for key, child in children.items() if _is_schema(child)
            )
    for name in _CHILD_LISTS:
        children = schema.get(name)
        if isinstance(children, list):
            for number, child in enumerate(children):
                if _is_schema(child):
                    yield (name, str(number)), child
    for name in _CHILD_SCHEMAS:
        if _is_schema(schema.get(name)):
            yield (name,), schema[name]


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)
