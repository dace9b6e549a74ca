"""Follows an answer that may call tools: its parts, numbered, streamed or gathered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.tokenization.tool_calls.parts import (
    AnswerPart,
    CallArguments,
    CallCut,
    CallStart,
    PlainReader,
    ReaderFactory,
    ReasoningPart,
    TextPart,
)


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """Begins the call number `index` of an answer."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the arguments of the call number `index`."""

    index: int
    text: str


Piece = TextPart | ReasoningPart | OpenedCall | CallPiece


def _no_id() -> str:
    raise AssertionError("a plain answer has no calls")


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """How the answers of one request are read."""

    readers: ReaderFactory = PlainReader
    """Makes what reads one answer."""
    new_id: Callable[[], str] = _no_id
    """Makes the id of a call."""
    max_calls: int = 0
    """The most calls of an answer; what comes beyond is left out. 0: there are no tools."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `SamplingParams` that reading needs."""

    @property
    def has_tools(self) -> bool:
        """Whether the answer may call tools."""
        return self.max_calls > 0


class AnswerFollower:
    """Reads one answer as it comes and numbers its calls."""

    def __init__(self, rules: AnswerRules) -> None:
        self._rules = rules
        self._reader = rules.readers()
        self._num_seen = 0
        self.has_cut_call = False
        """Whether the answer has ended within its last call, for whatever reason."""

    def push(self, text: str) -> list[Piece]:
        """Return what is certain once `text` has come."""
        return self._numbered(self._reader.push(text))

    def finish(self, finish_reason: str) -> list[Piece]:
        """Return the rest, when the engine has ended the answer for `finish_reason`."""
        return self._numbered(self._reader.finish(is_cut=finish_reason == "length"))

    def reason(self, finish_reason: str) -> str:
        """Return why the answer has ended, as clients are told."""
        calls = self._num_seen > 0 and not self.has_cut_call
        return "tool_calls" if calls and finish_reason == "stop" else finish_reason

    def _numbered(self, parts: list[AnswerPart]) -> list[Piece]:
        pieces: list[Piece] = []
        for part in parts:
            match part:
                case CallStart(name):
                    self._num_seen += 1
                    if self._num_seen <= self._rules.max_calls:
                        index = self._num_seen - 1
                        pieces.append(OpenedCall(index, self._rules.new_id(), name))
                case CallArguments(text):
                    if self._num_seen <= self._rules.max_calls:
                        pieces.append(CallPiece(self._num_seen - 1, text))
                case CallCut():
                    # One that is left out is not missed.
                    self.has_cut_call = self._num_seen <= self._rules.max_calls
                case _:
                    pieces.append(part)
        return pieces


@dataclass(slots=True)
class GatheredCall:
    """A call, whole."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class GatheredAnswer:
    """An answer, whole."""

    content: str = ""
    reasoning: str = ""
    calls: list[GatheredCall] = field(default_factory=list)
    finish_reason: str = "stop"

    def add(self, pieces: list[Piece]) -> None:
        """Append what has come."""
        for piece in pieces:
            match piece:
                case TextPart(text):
                    self.content += text
                case ReasoningPart(text):
                    self.reasoning += text
                case OpenedCall(_, call_id, name):
                    self.calls.append(GatheredCall(call_id, name))
                case CallPiece(index, text):
                    self.calls[index].arguments += text


def gather(rules: AnswerRules, text: str, finish_reason: str) -> GatheredAnswer:
    """Read the whole `text` of an answer that the engine has ended for `finish_reason`."""
    follower, answer = AnswerFollower(rules), GatheredAnswer()
    answer.add(follower.push(text))
    answer.add(follower.finish(finish_reason))
    answer.finish_reason = follower.reason(finish_reason)
    return answer
