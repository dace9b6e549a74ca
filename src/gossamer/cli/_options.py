"""Command-line options made from settings: one per field, its sentence as help."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gossamer.errors import SettingError, cut
from gossamer.settings import Settings

S = TypeVar("S", bound=Settings)

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Options(Generic[S]):
    """The options of one settings class, as a titled group of a command's help.

    A field `max_context` is `--max-context`; `names` gives some another name (`"memory"` for
    `memory_gib`), `metavars` another placeholder. A default is written only in the settings:
    options that are not given leave no trace in the parsed arguments.
    """

    settings: type[S]
    title: str
    names: Mapping[str, str] = field(default_factory=dict)
    metavars: Mapping[str, str] = field(default_factory=dict)
    word: str | None = None
    """The field that may also be given as a plain word, without its option."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the group."""
        if self.word is not None:
            add_word(parser, self.word, self.metavars[self.word])
        group = parser.add_argument_group(self.title)
        for name, info in self.settings.model_fields.items():
            kind, is_many = _kind(info.annotation)
            if isinstance(kind, type) and issubclass(kind, Settings):
                continue  # has options of its own
            arguments = _arguments(kind, is_many)
            if name in self.metavars:
                arguments["metavar"] = self.metavars[name]
            group.add_argument(
                self.option(name),
                dest=self._dest(name),
                default=argparse.SUPPRESS,
                required=info.is_required() and name != self.word,
                help=_help(info, kind),
                **arguments,
            )

    def option(self, name: str) -> str:
        """The option of a field, e.g. `--max-context`."""
        return f"--{self.names.get(name, name).replace('_', '-')}"

    def given(self, args: argparse.Namespace) -> dict[str, Any]:
        """Fields that the command line sets, and their values."""
        parsed = vars(args)
        dests = {name: self._dest(name) for name in self.settings.model_fields}
        found = {name: parsed[dest] for name, dest in dests.items() if dest in parsed}
        if self.word is not None:
            value = one_of_word_and_option(args, self.word, found.get(self.word))
            found |= {} if value is None else {self.word: value}
        return found

    def read(self, args: argparse.Namespace, **more: Any) -> S:
        """The settings; `more` fills fields that the command line leaves open.

        Raises `SettingError` that names the option.
        """
        try:
            return self.settings.parse({**more, **self.given(args)}, where="options")
        except SettingError as error:
            message = str(error).removeprefix("options: ")
            options = {name: self.option(name) for name in self.settings.model_fields}
            if self.word is not None and message == f"setting '{self.word}' is required":
                metavar = self.metavars[self.word]
                message = f"{options[self.word]} {metavar} is required, or {metavar} alone"
            raise SettingError(with_options(message, options)) from None

    def _dest(self, name: str) -> str:
        # Two settings of one command may have a field of the same name.
        return f"{self.settings.__name__}.{name}"


def add_word(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    """Let the option `--NAME` also be given as a plain word."""
    parser.add_argument(
        f"word.{name}",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar=metavar,
        help=f"the same as --{name} {metavar}",
    )


def one_of_word_and_option(args: argparse.Namespace, name: str, option: Any) -> Any:
    """What was given as a word or as an option; None: neither. Raises `SettingError` for two."""
    word = getattr(args, f"word.{name}", None)
    if word is None or option is None or word == option:
        return option if word is None else word
    raise SettingError(
        f"'{cut(word)}' and --{name} {cut(option)}: which of the two? give one of them"
    )


def with_options(message: str, options: Mapping[str, str]) -> str:
    """A settings class's `message`, its fields named by the options that set them."""
    for name, option in options.items():
        message = message.replace(f"setting '{name}'", option)
    return message


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
    # Numbers are checked by the settings too, but argparse says which option is wrong.
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
