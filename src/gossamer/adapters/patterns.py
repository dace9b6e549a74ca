"""PEFT's rule for which key of `rank_pattern` or `alpha_pattern` applies to a module.

A key is a regular expression that must match the whole module path or its end after a dot; the
first key that matches wins (`peft.utils.other.get_pattern_key`). Nearly all keys are names or
paths, which are compared. The others are matched by RE2, whose time is linear in pattern and text:
Python's own engine takes exponential time for some, with the interpreter's lock held.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

import re2

from gossamer.adapters.fields import short
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.errors import AdapterFormatError

T = TypeVar("T")

_LITERAL = re.compile(r"(?:[\w.-]|\\\.)+")
# What both engines accept and understand differently: {,n}, and classes of characters by name.
_AMBIGUOUS = re.compile(r"\{,|\[:|[^ -~]")
_MEMORY = 1 << 17
"""Bytes that RE2 may take for a pattern."""
_NAME_STEPS = 8
"""What comparing with a group of names costs for each character, in steps of RE2's programs."""


class Patterns(Generic[T]):
    """The keys of one field of a config, ready to be asked for each module of a model."""

    def __init__(self, field: str, pattern: Mapping[str, T]) -> None:
        """Raises `AdapterFormatError`, which names `field`, for a key that cannot be matched."""
        self._given = pattern
        self._values = list(pattern.values())
        self._expressions: list[tuple[int, Any]] = []
        # A dot of a name stands for any character. Names of one length with their dots in the same
        # places are compared at once: length -> places of dots -> name -> number of the key.
        self._names: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
        for number, key in enumerate(pattern):
            if _LITERAL.fullmatch(key):
                self._add_name(number, key)
                continue
            try:
                self._expressions.append((number, _compiled(key)))
            except AdapterFormatError as error:
                raise AdapterFormatError(f"{field}: {error}") from None

    def _add_name(self, number: int, key: str) -> None:
        # An escaped dot stands for itself: hidden while the others are looked for.
        text = key.replace("\\.", "\0")
        wild = tuple(place for place, c in enumerate(text) if c == ".")
        group = self._names.setdefault(len(text), {}).setdefault(wild, {})
        group.setdefault(text.replace("\0", "."), number)

    @property
    def steps(self) -> int:
        """Count the steps that each character of a module's path costs."""
        groups = sum(map(len, self._names.values()))
        programs = sum(expression.programsize for _, expression in self._expressions)
        return _NAME_STEPS * groups + programs

    def value_for(self, module: str, default: T) -> T:
        """Return the value of the first key that matches `module`, else `default`.

        Raises `AdapterFormatError` for a module whose name no expression can be compared with.
        """
        if not self._given:
            return default
        first = self._first_name(module)
        if self._expressions and not (module.isascii() and module.isprintable()):
            raise AdapterFormatError(
                f"the name of layer {short(module)} has characters beyond ASCII, so the patterns "
                "of the config cannot be matched with it; write names of layers instead"
            )
        for number, expression in self._expressions:
            if number > first:
                break
            if expression.match(module.encode()) is not None:
                return self._values[number]
        if first < len(self._values):
            return self._values[first]
        # PEFT looks up a path that nothing matches as it is.
        return self._given.get(module, default)

    def _first_name(self, module: str) -> int:
        """The number of the first key that is a name and matches; else that of all keys."""
        found = len(self._values)
        end = module
        while True:
            for wild, names in self._names.get(len(end), {}).items():
                found = min(found, names.get(_with_dots(end, wild), found))
            _, dot, end = end.partition(".")
            if not dot:
                return found


def require_affordable(
    fields: Iterable[Patterns[Any]], modules: Collection[str], limits: AdapterLimits
) -> None:
    """Raise `AdapterFormatError` if asking all `fields` for all `modules` would take too long."""
    steps = sum(field.steps for field in fields) * sum(map(len, modules))
    if steps > limits.max_pattern_steps:
        raise AdapterFormatError(
            f"finding the keys of rank_pattern and alpha_pattern for {len(modules)} layers would "
            f"take {steps:,} steps, more than the {limits.max_pattern_steps:,} of max_pattern_steps"
        )


def _with_dots(text: str, places: tuple[int, ...]) -> str:
    """`text` with a dot at each of `places`."""
    if all(text[place] == "." for place in places):
        return text
    characters = list(text)
    for place in places:
        characters[place] = "."
    return "".join(characters)


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = True
    options.encoding = re2.Options.Encoding.LATIN1
    return options


@lru_cache(maxsize=256)
def _compiled(key: str) -> Any:
    """A pattern that RE2 and Python's engine read alike."""
    if _AMBIGUOUS.search(key):
        raise AdapterFormatError(
            f"the pattern {short(key)} has '{{,', '[:' or characters beyond ASCII, which are not "
            "supported; write it another way"
        )
    text = rf"(.*\.)?({key})$"
    try:
        found = re2.compile(text.encode(), _options())
    except re2.error as error:
        reason = _text(error)
        raise AdapterFormatError(
            f"the pattern {short(key)} is no regular expression that RE2 can match: {reason}; "
            "write a simpler one, or names of layers"
        ) from None
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterFormatError(
            f"the pattern {short(key)} is no regular expression: {error}"
        ) from None
    return found


def _text(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
