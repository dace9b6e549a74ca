"""Prepares `format` in schemas: notes go, and days that no calendar has are left out of dates."""

from typing import Any

FORMATS = frozenset(
    {
        *("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6"),
        *("uuid", "uri"),
    }
)
"""The formats that texts are kept to. Others are notes, as all are in JSON Schema unless a reader
knows them."""
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("const", "enum", "default", "examples")
"""Names below which stand values, which are no schemas whatever they look like."""

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_BY_FOUR = "(?:0[48]|[2468][048]|[13579][26])"
_DAYS = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAYS}|(?:[0-9]{{2}}{_BY_FOUR}|{_BY_FOUR}00)-02-29)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
PATTERNS = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}[Tt]{_CLOCK}{_ZONE}$"}
"""The formats of RFC 3339 for which the library has 29 February in every year, and a year 0."""


def with_plain_formats(schema: Any) -> Any:
    """Copy a schema without the formats that are notes, and with `PATTERNS` instead of theirs."""
    if isinstance(schema, list):
        return [with_plain_formats(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[name] = {each: with_plain_formats(part) for each, part in value.items()}
        elif name in _VALUES:
            kept[name] = value
        elif name != "format" or not isinstance(value, str):
            kept[name] = with_plain_formats(value)
        elif value in FORMATS and value not in PATTERNS:
            kept[name] = value
    named = schema.get("format")
    if isinstance(named, str) and (pattern := PATTERNS.get(named)) is not None:
        if "pattern" not in kept:
            kept["pattern"] = pattern
        elif isinstance(parts := kept.get("allOf", []), list):
            kept["allOf"] = [*parts, {"pattern": pattern}]
    return kept
