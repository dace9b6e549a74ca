"""Reads answers that a grammar has made calls: their arguments are told as they come."""

import re

from gossamer.serving.tokenization.tool_calls.calls import parse_calls
from gossamer.serving.tokenization.tool_calls.json_end import JsonEnd
from gossamer.serving.tokenization.tool_calls.parts import (
    AnswerPart,
    CallArguments,
    CallCut,
    CallStart,
)

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class ForcedReader:
    """Reads the JSON objects of calls: `name`, then `arguments` or `parameters`.

    What stands between them is left out. Of a call that is cut before its arguments begin nothing
    is told.
    """

    def __init__(self, names: frozenset[str]) -> None:
        """Make a reader; `names` are those of the tools that may be called."""
        self._names = names
        self._text = ""
        self._told = 0
        self._end: JsonEnd | None = None

    def push(self, text: str) -> list[AnswerPart]:
        """Return the parts that are certain once `text` has come."""
        self._text += text
        parts: list[AnswerPart] = []
        while (more := self._next()) is not None:
            parts += more
        return parts

    def _next(self) -> list[AnswerPart] | None:
        """The parts up to the end of a call, or of what has come; None if more must come first."""
        parts: list[AnswerPart] = []
        if self._end is None:
            begin = self._text.find("{")
            head = _HEAD.match(self._text, begin) if begin >= 0 else None
            if head is None:
                return None
            self._told = head.end()
            self._end = JsonEnd(self._told)
            parts.append(CallStart(head[1]))
        at = self._end.find(self._text)
        end = len(self._text) if at is None else at[0]
        if end > self._told:
            parts.append(CallArguments(self._text[self._told : end]))
        self._told = end
        if at is not None:
            self._text, self._told, self._end = self._text[end:], 0, None
        return parts or None

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest, once no more text comes: a call that is written in another order, or
        that the one that is open is cut."""
        if self._end is not None:
            return [CallCut()]
        return parse_calls(self._text, self._names) or []
