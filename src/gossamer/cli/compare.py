"""Compare methods: train each on the same rows, seeds and steps, and score what they learn.

The result is a folder with a table, plots and each adapter. Ctrl-C stops it at any time, and the
same command goes on with what is missing. A method that fails is noted with its reason, and the
others go on; the exit code is then 1.
"""

import argparse
import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from gossamer.errors import SettingError
from gossamer.extras import require
from gossamer.settings import parse_assignments
from gossamer.training.comparison.settings import CompareSettings

_MANY = ("methods", "budget", "seeds")
_METAVARS = {
    "model": "MODEL",
    "data": "FILE",
    "eval": "FILE",
    "methods": "METHOD",
    "budget": "KIND=N",
    "output": "DIR",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; the words come from the settings themselves."""
    order = ["model", "data", "eval", "methods", "budget", "seeds", "output"]
    fields = [name for name in CompareSettings.model_fields if name not in (*order, "run")]
    for name in (*order, *fields):
        parser.add_argument(f"--{name.replace('_', '-')}", **_option(name))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="NAME=VALUE",
        help="a setting of all runs, such as batch_size; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    require("compare", "tune")
    given = {
        n: v for n in CompareSettings.model_fields if (v := getattr(args, n, None)) is not None
    }
    given["run"] = parse_assignments(args.assignments)
    try:
        settings = CompareSettings.parse(given, where="compare")
    except SettingError as error:
        raise SettingError(_as_option(str(error))) from None
    # Before torch is loaded, which takes seconds.
    settings.check()

    from gossamer.training.comparison.compare import run_comparison
    from gossamer.training.comparison.process import ComparisonInterrupted
    from gossamer.training.comparison.progress import ComparisonProgress
    from gossamer.training.comparison.results import table

    try:
        comparison = run_comparison(settings, ComparisonProgress())
    except ComparisonInterrupted as stopped:
        print(stopped)
        return 130
    print(f"\n{table(comparison)}\nin {comparison.output}")
    return 1 if comparison.failed else 0


def _option(name: str) -> dict[str, Any]:
    field = CompareSettings.model_fields[name]
    text = " ".join((field.description or "").split())
    if not field.is_required() and field.default not in (None, []):
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        text += f" (default {shown})"
    # argparse reads % as the start of a format.
    option: dict[str, Any] = {"help": text.replace("%", "%%"), "required": field.is_required()}
    if get_origin(field.annotation) is Literal:
        return {**option, "choices": get_args(field.annotation)}
    if name in _MANY:
        option |= {"nargs": "+", "action": "extend"}
    kind = int if name == "seeds" or _is_number(field.annotation) else str
    return {**option, "type": kind, "metavar": _METAVARS.get(name, "N")}


def _is_number(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return any(_is_number(part) for part in get_args(annotation))
    return annotation is int or int in get_args(annotation)


def _as_option(message: str) -> str:
    message = message.removeprefix("compare: ")
    found = re.match(r"setting '(\w+)[\w.]*'", message)
    if found is None:
        return message
    return f"--{found[1].replace('_', '-')}{message[found.end() :]}"
