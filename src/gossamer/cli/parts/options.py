"""Command-line options made from settings: one per field, its sentence as help."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gossamer.errors import SettingError, cut
from gossamer.settings import Settings

S = TypeVar("S", bound=Settings)

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Style:
    """How the options of a command look and what they ask for."""

    default: str = " [default: {}]"
    """What follows the sentence of a field that has a default; empty: nothing does."""
    required: bool = True
    """Whether a field without a default must be given; else a file may give it."""
    lists: Literal["repeated", "words"] = "repeated"
    """Whether an option for several values is repeated or takes several words."""
    can_deny: bool = True
    """Whether a switch that is off by default has a `--no-...` too."""


@dataclass(frozen=True, slots=True)
class Options(Generic[S]):
    """The options of one settings class, as a group of a command's help if it has a title.

    A field `max_context` is `--max-context`; `names` gives some another name (`"memory"` for
    `memory_gib`), `metavars` another placeholder, `fields` chooses and orders them. A choice with a
    placeholder is checked by the settings, another one by argparse. A default is written only in
    the settings: options that are not given leave no trace in the parsed arguments.
    """

    settings: type[S]
    title: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    metavars: Mapping[str, str] = field(default_factory=dict)
    word: str | None = None
    """The field that may also be given as a plain word, without its option."""
    fields: Sequence[str] | None = None
    style: Style = Style()

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        if self.word is not None:
            add_word(parser, self.word, self.metavars[self.word])
        group = parser if self.title is None else parser.add_argument_group(self.title)
        for name, info in self._chosen():
            kind, is_many = _kind(info.annotation)
            group.add_argument(
                self.option(name),
                dest=self._dest(name),
                default=argparse.SUPPRESS,
                help=self._help(info, kind, is_many),
                **self._required(name, info),
                **self._arguments(name, kind, is_many),
            )

    def option(self, name: str) -> str:
        """Return the option of a field, such as `--max-context`."""
        return f"--{self.names.get(name, name).replace('_', '-')}"

    def given(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return the fields that the command line sets, with their values."""
        parsed = vars(args)
        dests = {name: self._dest(name) for name, _ in self._chosen()}
        found = {name: parsed[dest] for name, dest in dests.items() if dest in parsed}
        if self.word is not None:
            value = one_of_word_and_option(args, self.word, found.get(self.word))
            found |= {} if value is None else {self.word: value}
        return found

    def read(self, args: argparse.Namespace, **more: Any) -> S:
        """Build the settings; `more` fills fields that the command line leaves open.

        Raises `SettingError` that names the option.
        """
        try:
            return self.settings.parse({**more, **self.given(args)}, where="options")
        except SettingError as error:
            message = str(error).removeprefix("options: ")
            if self.word is not None and message == f"setting '{self.word}' is required":
                metavar = self.metavars[self.word]
                message = f"{self.option(self.word)} {metavar} is required, or {metavar} alone"
            raise SettingError(self.in_options(message)) from None

    def in_options(self, message: str) -> str:
        """Rewrite a message of the settings so that it names options instead of fields."""
        for name, _ in self._chosen():
            message = re.sub(rf"setting '{name}(\.[\w.]+)?'", self.option(name), message)
        return message

    def _chosen(self) -> Iterator[tuple[str, FieldInfo]]:
        known = self.settings.model_fields
        for name in known if self.fields is None else self.fields:
            kind, _ = _kind(known[name].annotation)
            # Settings inside of settings have options of their own.
            if not (isinstance(kind, type) and issubclass(kind, Settings)):
                yield name, known[name]

    def _required(self, name: str, info: FieldInfo) -> dict[str, Any]:
        needed = self.style.required and info.is_required() and name != self.word
        return {"required": True} if needed else {}

    def _arguments(self, name: str, kind: Any, is_many: bool) -> dict[str, Any]:
        if kind is bool:
            return {
                "action": argparse.BooleanOptionalAction if self.style.can_deny else "store_true"
            }
        several: dict[str, Any] = {}
        if is_many:
            in_words = self.style.lists == "words"
            several = {"nargs": "+", "action": "extend"} if in_words else {"action": "append"}
        metavar = self.metavars.get(name)
        if get_origin(kind) is Literal:
            return {"metavar": metavar} if metavar else {"choices": get_args(kind), **several}
        if kind not in METAVARS:
            raise TypeError(f"no option can be made for a field of type {kind!r}")
        # Numbers are checked by the settings too, but argparse says which option is wrong.
        return {"type": kind, "metavar": metavar or METAVARS[kind], **several}

    def _help(self, info: FieldInfo, kind: Any, is_many: bool) -> str:
        sentence = " ".join((info.description or "").split())
        if is_many and self.style.lists == "repeated" and "(repeatable)" not in sentence:
            sentence = f"(repeatable) {sentence}"
        default = _shown(info, kind)
        if default is not None and self.style.default:
            sentence += self.style.default.format(default)
        # argparse reads % as the start of a format.
        return sentence.replace("%", "%%")

    def _dest(self, name: str) -> str:
        # Two settings of one command may have a field of the same name.
        return f"{self.settings.__name__}.{name}"


def add_assignments(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--set NAME=VALUE`, which may be given several times; `text` is its help."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="NAME=VALUE",
        help=text,
    )


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
    """Return what was given as a word or as an option, or None; two are a `SettingError`."""
    word = getattr(args, f"word.{name}", None)
    if word is None or option is None or word == option:
        return option if word is None else word
    raise SettingError(
        f"'{cut(word)}' and --{name} {cut(option)}: which of the two? give one of them"
    )


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether the option may be given several."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _kind(next(kind for kind in get_args(annotation) if kind is not NoneType))
    if get_origin(annotation) in (tuple, list):
        return _kind(get_args(annotation)[0])[0], True
    return annotation, False


def _shown(info: FieldInfo, kind: Any) -> str | None:
    """The default for people; None: there is none to show."""
    default = info.default
    if info.is_required() or default is None or default in ((), []):
        return None
    if kind is bool:
        return "on" if default else "off"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, list | tuple):
        return " ".join(map(str, default))
    return str(default)
