"""Settings: one frozen pydantic model per component; a default is written once.

The sentence under each field is its help on the command line and in the reference.
"""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gossamer.errors import SettingError, cut, unknown_name_message


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused with the nearest known one."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "settings") -> Self:
        """Build from plain values; raise `SettingError` that names key, value and remedy."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingError(f"{where}: {_first_problem(cls, error)}") from None

    def updated(self, values: Mapping[str, Any], *, where: str = "settings") -> Self:
        """Copy the settings with `values` replaced, and check them again."""
        return self.parse({**self.model_dump(), **values}, where=where)


def parse_assignments(pairs: list[str], *, where: str = "--set") -> dict[str, Any]:
    """Read `["rank=8", "target_modules=[q_proj]"]` as a mapping; values are YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise SettingError(f"{where}: '{cut(pair)}' is not of the form key=value")
        try:
            result[key.strip()] = _plain_value(text)
        except yaml.YAMLError:
            raise SettingError(f"{where}: the value of '{cut(pair)}' is not valid YAML") from None
    return result


def _plain_value(text: str) -> Any:
    value = yaml.safe_load(text) if text.strip() else ""
    # YAML 1.1 reads "1e-4" as a string; people mean the number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _first_problem(cls: type[Settings], error: ValidationError) -> str:
    missing = [f"setting '{p['loc'][0]}'" for p in error.errors() if p["type"] == "missing"]
    if len(missing) > 1:
        return f"{', '.join(missing[:-1])} and {missing[-1]} are required"
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_name_message("setting", key, cls.model_fields)
    if problem["type"] == "missing":
        return f"setting '{key}' is required"
    message = _in_our_words(problem["msg"])
    if not key:
        return message
    return f"setting '{key}' = {cut(repr(problem['input']))}: {message}"


_WORDS = (
    ("Input should be ", "must be "),
    ("Input should have ", "must have "),
    ("greater than or equal to ", "at least "),
    ("less than or equal to ", "at most "),
    ("greater than ", "above "),
    ("less than ", "below "),
    (", unable to parse string as an integer", ""),
    (", unable to parse string as a number", ""),
    (", got a number with a fractional part", ""),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid string", "a text"),
    ("a valid boolean, unable to interpret input", "true or false"),
    ("a valid boolean", "true or false"),
    ("a valid list", "a list"),
    ("a valid dictionary", "a mapping"),
)


def _in_our_words(message: str) -> str:
    """pydantic's sentence in the words of the other messages; a validator's own stays."""
    if message.startswith("Value error, "):
        return cut(message.removeprefix("Value error, "), 1000)
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return cut(message, 1000)
