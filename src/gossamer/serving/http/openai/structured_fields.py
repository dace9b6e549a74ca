"""Parses the fields that ask for an answer of a form: OpenAI's, vLLM's, and vLLM's older ones."""

from typing import Any, Never

from pydantic import InstanceOf

from gossamer.errors import unknown_name_message
from gossamer.serving.core.messages import FORMS, StructuredOutputs
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import unsupported_fields
from gossamer.serving.http.openai.unsupported_fields import Neutral, shown

FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
"""The fields of which one may ask for a form."""

Form = InstanceOf[StructuredOutputs] | None

_FORMATS = ("text", "json_object", "json_schema")
_OBJECTS = {"type": "object"}
"""The JSON Schema of json_object."""


def _unset(value: Any) -> bool:
    return value is False


def _anything(value: Any) -> bool:
    return True


_OPTIONS: dict[str, Neutral] = {
    "disable_fallback": _anything,
    "disable_any_whitespace": _unset,
    "disable_additional_properties": _unset,
    "enable_in_reasoning": _unset,
}
"""Options of vLLM's `structured_outputs` that ask for nothing so."""


def parse_response_format(value: Any) -> StructuredOutputs | None:
    """Parse OpenAI's field; None for plain text. Raises `ApiError` 400 or `RequestError`."""
    if not isinstance(value, dict):
        _refuse("response_format", 'must be an object such as {"type": "json_object"}')
    kind = value.get("type")
    if not isinstance(kind, str):
        _refuse("response_format.type", f"must be one of {', '.join(_FORMATS)}")
    if kind not in _FORMATS:
        message = unknown_name_message("type", kind, _FORMATS)
        raise _error("response_format.type", f"response_format: {message}")
    own = {"text": (), "json_object": ("schema",), "json_schema": ("json_schema",)}[kind]
    known = unsupported_fields.keep_supported(value, ("type", *own), {}, where="response_format.")
    if kind == "text":
        return None
    if kind == "json_object":
        # A schema beside it is how some servers are asked for one.
        schema = known.get("schema", _OBJECTS)
        return _schema(schema, "response_format.schema" if "schema" in known else "response_format")
    where = "response_format.json_schema"
    described = known.get("json_schema")
    if not isinstance(described, dict):
        _refuse(where, 'must be an object such as {"name": "...", "schema": {...}}')
    names = ("name", "schema", "strict", "description")
    known = unsupported_fields.keep_supported(described, names, {}, where=f"{where}.")
    for name, kinds in (("name", str), ("description", str), ("strict", bool)):
        if name in known and not isinstance(known[name], kinds):
            _refuse(f"{where}.{name}", f"= {shown(known[name])} must be a {kinds.__name__}")
    if "schema" not in known:
        _refuse(f"{where}.schema", "is required: the JSON Schema that the answer is to keep to")
    return _schema(known["schema"], f"{where}.schema")


def parse_structured_outputs(value: Any) -> StructuredOutputs | None:
    """Parse vLLM's field. Raises `ApiError` 400 or `RequestError`."""
    where = "structured_outputs"
    if not isinstance(value, dict):
        _refuse(where, f"must be an object with one of {', '.join(FORMS)}")
    given = dict(value)
    # vLLM's word for JSON of any kind, which `json` says as well.
    if given.pop("json_object", None) is True:
        given.setdefault("json", _OBJECTS)
    known = unsupported_fields.keep_supported(given, FORMS, _OPTIONS, where=f"{where}.")
    return StructuredOutputs(**known, asked_as=where)


def parse_guided_json(value: Any) -> StructuredOutputs:
    """Parse vLLM's older field: a JSON Schema, or its text. Raises `ApiError` 400."""
    return _schema(value, "guided_json")


def parse_guided_regex(value: Any) -> StructuredOutputs:
    """Parse vLLM's older field: an expression. Raises `RequestError`."""
    return StructuredOutputs(regex=value, asked_as="guided_regex")


def parse_guided_choice(value: Any) -> StructuredOutputs:
    """Parse vLLM's older field: a list of texts. Raises `RequestError`."""
    return StructuredOutputs(choice=value, asked_as="guided_choice")


def parse_guided_grammar(value: Any) -> StructuredOutputs:
    """Parse vLLM's older field: a grammar. Raises `RequestError`."""
    return StructuredOutputs(grammar=value, asked_as="guided_grammar")


def only_one(asked: list[tuple[str, StructuredOutputs | None]]) -> StructuredOutputs | None:
    """Return the one form that is asked for, of the fields by name; raises `ApiError` 400 for
    several."""
    found = [(name, form) for name, form in asked if form is not None]
    if len(found) > 1:
        names = " and ".join(f"'{name}'" for name, _ in found)
        raise _error(found[1][0], f"{names} ask for forms of the same answer; give one of them")
    return found[0][1] if found else None


def _schema(value: Any, where: str) -> StructuredOutputs:
    if not isinstance(value, dict | bool | str):
        _refuse(where, "must be a JSON Schema, an object")
    return StructuredOutputs(json=value, asked_as=where)


def _refuse(param: str, problem: str) -> Never:
    raise _error(param, f"'{param}' {problem}")


def _error(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
