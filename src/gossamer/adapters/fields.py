"""Which fields of an adapter's config are understood; a switch that is not must not be ignored."""

from collections.abc import Collection, Mapping
from typing import Any

from gossamer.adapters.reading.limits import MOST_PLACES
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError, cut

COMMON = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
        "peft_type", "peft_version", "revision", "target_modules", "task_type",
    }
)  # fmt: skip
"""Fields of PEFT's every config that say nothing about the numbers."""

REFUSED = {
    "modules_to_save": "replaces whole layers",
    "fan_in_fan_out": "expects transposed base weights",
    "target_parameters": "adapts parameters that are not linear layers",
}
"""Fields that several types share and that are refused when set."""


def refuse_fields(
    name: str, raw: Mapping[str, Any], refused: Mapping[str, str], known: Collection[str]
) -> None:
    """Raise `UnsupportedAdapterError` for a field that is set and changes what is computed.

    `refused` maps a field to what it does. Of fields in neither list only switches, lists and
    objects are refused: numbers and names alone are idle.
    """
    for field, effect in refused.items():
        value = raw.get(field)
        if is_set(value) and value != "none":
            raise UnsupportedAdapterError(
                f"adapter {name}: {field} = {short(value)} {effect}, which is not supported; "
                "merge it into its base model with PEFT instead"
            )
    for field, value in raw.items():
        if field in known or field in refused or field.startswith("gossamer_"):
            continue
        if is_set(value) and isinstance(value, bool | list | dict):
            raise UnsupportedAdapterError(
                f"adapter {name}: unknown field {cut(field)} = {short(value)} in its config may "
                "change the result; remove the field if it does not"
            )


def whole_number(name: str, raw: Mapping[str, Any], field: str, *, least: int) -> int:
    """Return the whole number `field`, below 2^31; raises `AdapterFormatError`."""
    value = raw.get(field)
    if type(value) is not int or not least <= value < MOST_PLACES:
        raise AdapterFormatError(
            f"adapter {name}: {field} = {short(value)} must be a whole number of {least} or more "
            "(below 2^31)"
        )
    return value


def is_set(value: Any) -> bool:
    """Tell whether a field says anything at all."""
    return value is not None and value is not False and value not in ("", [], {})


def short(value: Any) -> str:
    """Return `value` as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
