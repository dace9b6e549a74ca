"""Defines what an answer consists of besides plain text, and who reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that is the answer's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Text that the model has thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """Opens a call of the tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON object of arguments of the call that was opened last."""

    text: str


@dataclass(frozen=True, slots=True)
class CallCut:
    """Ends the call that was opened last before its arguments are whole."""


AnswerPart = TextPart | ReasoningPart | CallStart | CallArguments | CallCut


class AnswerReader(Protocol):
    """Reads the text of one answer piece by piece.

    However the text is cut, the parts are the same, but for where texts and arguments are cut.
    """

    def push(self, text: str) -> list[AnswerPart]:
        """Return the parts that are certain once `text` has come."""

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest, once no more text comes; `is_cut`: for want of room for more."""


ReaderFactory = Callable[[], AnswerReader]


class PlainReader:
    """Takes all text for content."""

    def push(self, text: str) -> list[AnswerPart]:
        """Return `text` as it is."""
        return [TextPart(text)] if text else []

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return nothing: no text is held back."""
        return []


def join_parts(parts: list[AnswerPart]) -> list[AnswerPart]:
    """Join neighbours that are pieces of one text or of one call's arguments."""
    joined: list[AnswerPart] = []
    for part in parts:
        match joined[-1] if joined else None, part:
            case TextPart(before), TextPart(text):
                joined[-1] = TextPart(before + text)
            case ReasoningPart(before), ReasoningPart(text):
                joined[-1] = ReasoningPart(before + text)
            case CallArguments(before), CallArguments(text):
                joined[-1] = CallArguments(before + text)
            case _:
                joined.append(part)
    return joined
