"""Moves a JSON Schema to a place within another one, where its references hold as before."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

_NAMED_SCHEMAS = (
    *("properties", "patternProperties", "dependentSchemas", "dependencies"),
    *("$defs", "definitions"),
)
"""Keywords below which stand schemas by names that are no keywords, whatever they look like."""
_VALUES = ("const", "enum", "default", "examples")
"""Keywords below which stand values, which are no schemas whatever they look like."""
_OWN_NAMES = ("$id", "$schema", "$anchor")
"""Keywords by which a schema names itself, or its dialect."""


def moved(schema: Any, place: str) -> Any:
    """Copy a schema so that its references hold where it stands at `place` of another.

    Its own address goes: references below it would be looked for there. Its anchors go too, and
    what refers to them refers to their places, since several schemas may have the same ones.
    """
    anchors: dict[str, str] = {}
    for where, name in _anchors(schema, place):
        anchors.setdefault(name, where)
    return _copy(schema, place, anchors)


def _copy(schema: Any, place: str, anchors: Mapping[str, str]) -> Any:
    if isinstance(schema, list):
        return [_copy(each, place, anchors) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copied: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            copied[key] = value
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            copied[key] = {name: _copy(each, place, anchors) for name, each in value.items()}
        elif not isinstance(value, str):
            copied[key] = _copy(value, place, anchors)
        elif key == "$ref":
            copied[key] = _target(value, place, anchors)
        elif key not in _OWN_NAMES:
            copied[key] = value
    return copied


def _target(reference: str, place: str, anchors: Mapping[str, str]) -> str:
    if reference == "#" or reference.startswith("#/"):
        return place + reference[1:]
    # One to an anchor that is missing stays as it is, and is refused with the form.
    return anchors.get(reference[1:], reference) if reference.startswith("#") else reference


def _anchors(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    """List the anchors within a schema that stands at `place`, each as its place and its name."""
    if isinstance(schema, list):
        for number, each in enumerate(schema):
            yield from _anchors(each, f"{place}/{number}")
    if not isinstance(schema, dict):
        return
    if isinstance(name := schema.get("$anchor"), str):
        yield place, name
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            for each, part in value.items():
                yield from _anchors(part, f"{place}/{key}/{_step(each)}")
        elif key not in _VALUES:
            yield from _anchors(value, f"{place}/{_step(key)}")


def _step(name: str) -> str:
    """Write a name as a step of a JSON pointer in the fragment of an address."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="$")
