"""Reads an answer that a grammar has made one call: its arguments are told as they come."""

import re

from gossamer.serving.tokenization.tool_calls.calls import parse_calls
from gossamer.serving.tokenization.tool_calls.json_end import JsonEnd
from gossamer.serving.tokenization.tool_calls.parts import AnswerPart, CallArguments, CallStart

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class ForcedReader:
    """Reads the JSON object of one call: `name`, then `arguments` or `parameters`.

    Of an answer that is cut before its arguments begin nothing is told.
    """

    def __init__(self, names: frozenset[str]) -> None:
        """Make a reader; `names` are those of the tools that may be called."""
        self._names = names
        self._text = ""
        self._told = 0
        self._end: JsonEnd | None = None
        self._is_done = False

    def push(self, text: str) -> list[AnswerPart]:
        """Return the parts that are certain once `text` has come."""
        if self._is_done:
            return []
        self._text += text
        parts: list[AnswerPart] = []
        if self._end is None:
            head = _HEAD.match(self._text)
            if head is None:
                return []
            self._told = head.end()
            self._end = JsonEnd(self._told)
            parts.append(CallStart(head[1]))
        at = self._end.find(self._text)
        end = len(self._text) if at is None else at[0]
        self._is_done = at is not None
        if end > self._told:
            parts.append(CallArguments(self._text[self._told : end]))
        self._told = end
        return parts

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest, once no more text comes: a call that is written in another order."""
        if self._end is not None:
            return []
        return parse_calls(self._text, self._names) or []
