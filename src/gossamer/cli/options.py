"""Command-line options made from settings: one per field, its sentence as help."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gossamer.settings import Settings

S = TypeVar("S", bound=Settings)

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def add_options(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    *,
    title: str,
    names: Mapping[str, str] | None = None,
    metavars: Mapping[str, str] | None = None,
) -> None:
    """Add a titled group with an option for each field of `settings`.

    A field `max_context` becomes `--max-context`; `names` gives some another name (`"memory"` for
    `memory_gib`), `metavars` another placeholder. Options that are not given are left out of the
    parsed arguments, so that a default is written only in the settings.
    """
    group = parser.add_argument_group(title)
    for field, info in settings.model_fields.items():
        name = (names or {}).get(field, field).replace("_", "-")
        kind, is_many = _kind(info.annotation)
        arguments = _arguments(kind, is_many)
        if "metavar" in arguments:
            arguments["metavar"] = (metavars or {}).get(field, arguments["metavar"])
        group.add_argument(
            f"--{name}",
            dest=_dest(settings, field),
            default=argparse.SUPPRESS,
            required=info.is_required(),
            help=_help(info, kind),
            **arguments,
        )


def given(settings: type[Settings], args: argparse.Namespace) -> dict[str, Any]:
    """Fields that the command line sets, and their values."""
    parsed = vars(args)
    return {
        field: parsed[_dest(settings, field)]
        for field in settings.model_fields
        if _dest(settings, field) in parsed
    }


def read_options(settings: type[S], args: argparse.Namespace, **more: Any) -> S:
    """Settings from the command line; `more` fills fields that it leaves open.

    Raises `SettingError`.
    """
    return settings.parse({**more, **given(settings, args)}, where="options")


def _dest(settings: type[Settings], field: str) -> str:
    # Two settings of one command may have a field of the same name.
    return f"{settings.__name__}.{field}"


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether the option may be repeated."""
    options = [annotation]
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
    if get_origin(options[0]) in (tuple, list):
        return get_args(options[0])[0], True
    return options[0], False


def _arguments(kind: Any, is_many: bool) -> dict[str, Any]:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    repeated = {"action": "append"} if is_many else {}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), **repeated}
    if kind not in METAVARS:
        raise TypeError(f"no option can be made for a field of type {kind!r}")
    # Numbers are parsed by the settings too, but argparse points at the option by its name.
    return {"type": kind, "metavar": METAVARS[kind], **repeated}


def _help(info: FieldInfo, kind: Any) -> str:
    sentence = " ".join((info.description or "").split())
    if info.is_required() or info.default is None or info.default == ():
        return sentence.replace("%", "%%")
    default = info.default
    if kind is bool:
        default = "on" if default else "off"
    elif isinstance(default, float):
        default = f"{default:g}"
    return f"{sentence} [default: {default}]".replace("%", "%%")
