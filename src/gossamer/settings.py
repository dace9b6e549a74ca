"""Settings: one frozen pydantic model per component; a default is written once.

The sentence under each field is its help on the command line and in the reference.
"""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gossamer.errors import SettingError, unknown_name_message


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
        """A copy with `values` replaced, checked again."""
        return self.parse({**self.model_dump(), **values}, where=where)


def parse_assignments(pairs: list[str], *, where: str = "--set") -> dict[str, Any]:
    """`["rank=8", "target_modules=[q_proj]"]` to a mapping; values are read as YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise SettingError(f"{where}: '{pair}' is not of the form key=value")
        try:
            result[key.strip()] = _plain_value(text)
        except yaml.YAMLError:
            raise SettingError(f"{where}: the value of '{pair}' is not valid YAML") from None
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
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_name_message("setting", key, cls.model_fields)
    if problem["type"] == "missing":
        return f"setting '{key}' is required"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"setting '{key}' = {problem['input']!r}: {message}"
