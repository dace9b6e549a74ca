"""Reads calls that are JSON behind a marker, or that are all of an answer.

A call is told once it is whole and judged, so that one that is none can still become content, with
all that stands around it: text that looked like a call is never lost and never an error.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from gossamer.serving.tokenization.tool_calls.calls import parse_calls
from gossamer.serving.tokenization.tool_calls.json_end import JsonEnd
from gossamer.serving.tokenization.tool_calls.parts import AnswerPart, TextPart


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a family of models writes calls."""

    opening: str = ""
    """The marker before the JSON; empty: an answer that begins with an object is a call, if it has
    arguments."""
    closing: str = ""
    """What may stand behind it."""
    takes_name: bool = False
    """Whether the tool's name may stand before the JSON, which is its arguments then."""


@dataclass(slots=True)
class _Call:
    """A call whose marker has come."""

    syntax: CallSyntax
    start: int
    """Where the held text goes on behind the marker."""
    json_start: int = 0
    name: str | None = None
    end: JsonEnd | None = None
    """What looks for the end of the JSON; None: it has not begun."""


_NAME = re.compile(r"\s*([\w.-]{1,128})(?:\[CALL_ID\][\w-]{0,128})?(?:\[ARGS\])?\s*(?=\{)")
_NAME_SO_FAR = re.compile(
    r"\s*[\w.-]{0,128}(?:\[[\w-]{0,8}(?:\][\w-]{0,128}(?:\[\w{0,4}\]?)?)?)?\s*"
)


class MarkedReader:
    """Reads the text of one answer by one or several syntaxes."""

    def __init__(self, syntaxes: tuple[CallSyntax, ...], names: frozenset[str]) -> None:
        """Make a reader; `names` are those of the offered tools."""
        self._marked = tuple(s for s in syntaxes if s.opening)
        self._bare = next((s for s in syntaxes if not s.opening), None)
        self._names = names
        self._held = ""
        """Text that is not decided yet."""
        self._read: Callable[[bool], list[AnswerPart] | None] = self._outside
        """What reads the held text on; it returns None when more must come first."""
        self._is_fresh = True
        """Whether only white space, or calls, have come yet."""
        self._after_call = False
        self._call = _Call(CallSyntax(), 0)

    def push(self, text: str) -> list[AnswerPart]:
        """Return the parts that are certain once `text` has come."""
        self._held += text
        return self._run(is_end=False)

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest, once no more text comes."""
        parts = self._run(is_end=True)
        rest, self._held = self._held, ""
        # White space behind a call says nothing.
        return parts + (
            [TextPart(rest)] if rest and not (self._after_call and _blank(rest)) else []
        )

    def _run(self, *, is_end: bool) -> list[AnswerPart]:
        parts: list[AnswerPart] = []
        while (more := self._read(is_end)) is not None:
            parts += more
        return parts

    # Outside of calls.

    def _outside(self, is_end: bool) -> list[AnswerPart] | None:
        begin = len(self._held) - len(self._held.lstrip())
        if self._bare is not None and self._is_fresh and self._held[begin : begin + 1] == "{":
            return self._enter(self._bare, begin, begin)
        places = [(self._held.find(s.opening), s) for s in self._marked]
        found = [(place, -len(s.opening), s) for place, s in places if place >= 0]
        if found:
            place, _, syntax = min(found, key=lambda each: each[:2])
            return self._enter(syntax, place, place + len(syntax.opening))
        if is_end:
            return None
        return self._content(len(self._held) - self._undecided())

    def _undecided(self) -> int:
        """The length of the tail that may become a marker, or be white space before one."""
        longest = max((len(s.opening) for s in self._marked), default=1) - 1
        tail = 0
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(s.opening.startswith(self._held[-length:]) for s in self._marked):
                tail = length
                break
        before = self._held[: len(self._held) - tail]
        return tail + len(before) - len(before.rstrip())

    def _content(self, end: int) -> list[AnswerPart] | None:
        if end <= 0:
            return None
        text, self._held = self._held[:end], self._held[end:]
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        self._is_fresh = self._is_fresh and not text.strip()
        return [TextPart(text)] if text else []

    # In a call.

    def _enter(self, syntax: CallSyntax, place: int, start: int) -> list[AnswerPart]:
        """Go on behind the marker of a call, which begins at `place`; `start` is behind it."""
        kept = len(self._held[:place].rstrip())
        parts = self._content(kept) or []
        self._call = _Call(syntax, start - kept)
        self._read = self._inside
        return parts

    def _inside(self, is_end: bool) -> list[AnswerPart] | None:
        call = self._call
        if call.end is None:
            found = self._json_start(call.syntax, call.start, is_end)
            if found is None:
                return None
            call.json_start, call.name = found
            if call.json_start < 0:
                return self._no_call(call.start)
            call.end = JsonEnd(call.json_start)
        at = call.end.find(self._held)
        if at is None:
            return self._no_call(len(self._held)) if is_end else None
        place, is_whole = at
        parts = self._judged(self._held[call.json_start : place]) if is_whole else None
        if parts is None:
            return self._no_call(place)
        self._held = self._held[place:]
        self._after_call = True
        self._read = self._behind
        return parts

    def _json_start(
        self, syntax: CallSyntax, start: int, is_end: bool
    ) -> tuple[int, str | None] | None:
        """Where the JSON begins and the name before it; None: not known yet; -1: nowhere."""
        rest = self._held[start:].lstrip()
        begin = len(self._held) - len(rest)
        if rest[:1] in ("{", "[") and rest:
            return begin, None
        if syntax.takes_name and rest:
            if (found := _NAME.match(self._held, start)) is not None:
                return found.end(), found[1]
            if not is_end and _NAME_SO_FAR.fullmatch(self._held, start) is not None:
                return None
        elif not rest and not is_end:
            return None
        return -1, None

    def _judged(self, text: str) -> list[AnswerPart] | None:
        if self._call.name is not None:
            text = f'{{"name": "{self._call.name}", "arguments": {text}}}'
        return parse_calls(text, self._names, needs_arguments=not self._call.syntax.opening)

    def _no_call(self, end: int) -> list[AnswerPart]:
        """Give all that is held up to `end` as content."""
        text, self._held = self._held[:end], self._held[end:]
        self._read = self._outside
        self._is_fresh = self._after_call = False
        return [TextPart(text)] if text else []

    def _behind(self, is_end: bool) -> list[AnswerPart] | None:
        """Go past what may stand behind a call: white space and its closing."""
        rest = self._held.lstrip()
        syntax = self._call.syntax
        # Bare calls are divided by semicolons.
        closing = syntax.closing or ("" if syntax.opening else ";")
        if len(rest) < len(closing) and closing.startswith(rest):
            if not is_end:
                return None
            rest = self._held = ""
        if closing and rest.startswith(closing):
            self._held = rest[len(closing) :]
        self._read = self._outside
        return []


def _blank(text: str) -> bool:
    return not text.strip()
