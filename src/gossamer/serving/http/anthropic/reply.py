"""Builds the replies of /v1/messages: a message, whole or told by events."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.core.messages import Tokens
from gossamer.serving.http.anthropic.errors import error_body
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.answers import (
    AnswerFollower,
    CallPiece,
    OpenedCall,
    Piece,
)
from gossamer.serving.http.openai.responses import Choice, ReplyFormat, Usage, frame
from gossamer.serving.tokenization.tool_calls.parts import ReasoningPart, TextPart

Event = dict[str, Any]

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(slots=True)
class MessageBlocks:
    """The blocks of one message as they come: texts, thoughts and uses of tools."""

    done: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[str, Any] | None = None
    _text: list[str] = field(default_factory=list)

    def add(self, pieces: list[Piece]) -> list[Event]:
        """Take in what has come; returns the events that tell of it."""
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case TextPart(text):
                    events += self._in({"type": "text", "text": ""})
                    events.append(self._delta({"type": "text_delta", "text": text}, text))
                case ReasoningPart(text):
                    events += self._in({"type": "thinking", "thinking": "", "signature": ""})
                    events.append(self._delta({"type": "thinking_delta", "thinking": text}, text))
                case OpenedCall(_, call_id, name):
                    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                    events += [*self.end(), *self._in(block)]
                case CallPiece(_, text):
                    delta = {"type": "input_json_delta", "partial_json": text}
                    events.append(self._delta(delta, text))
        return events

    def end(self) -> list[Event]:
        """End the block that is open, if there is one; returns the event that tells of it."""
        block, text = self._open, "".join(self._text)
        if block is None:
            return []
        index = len(self.done)
        if block["type"] == "tool_use":
            block = {**block, "input": _decoded(text)}
        else:
            block = {**block, block["type"]: text}
        self.done.append(block)
        self._open = None
        self._text.clear()
        return [{"type": "content_block_stop", "index": index}]

    def _in(self, block: dict[str, Any]) -> list[Event]:
        """Be in a block like `block`: the open one, or a new one."""
        if self._open is not None and self._open["type"] == block["type"] != "tool_use":
            return []
        events = self.end()
        self._open = block
        start = {"type": "content_block_start", "index": len(self.done), "content_block": block}
        return [*events, start]

    def _delta(self, delta: dict[str, Any], text: str) -> Event:
        self._text.append(text)
        return {"type": "content_block_delta", "index": len(self.done), "delta": delta}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # The arguments were cut, as the reason to stop says.
        return {}


@dataclass(slots=True)
class MessagesReply(ReplyFormat):
    """The replies of the route of messages: one message, or the events of its stream."""

    prefix = "msg_"
    last_frame = b""

    stops: tuple[str, ...] = ()
    """The texts that end an answer, which the engine leaves in it."""
    hidden: Mapping[int, str] = field(default_factory=dict)
    """The texts of special tokens by their ids, which it leaves in it too where they end it."""
    blocks: MessageBlocks = field(default_factory=MessageBlocks)
    met: str | None = None
    """The text that has ended it."""
    held: str = ""
    """The text of a special token that came last: nothing tells yet whether it ends the answer."""

    def reply(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Build a reply that is not streamed."""
        [choice] = choices
        reason, follower = choice.finish_reason or "stop", AnswerFollower(self.rules)
        text = self._cut(choice.text, choice.last_token)
        self.blocks.add(follower.push(text + self._rest(reason)))
        self.blocks.add(follower.finish(reason))
        self.blocks.end()
        return {
            **self._head(),
            "content": self.blocks.done,
            **self._end(follower.reason(reason)),
            "usage": self._usage(),
        }

    def opening(self, index: int) -> list[Event]:
        """Build the event before the first text."""
        end = {"stop_reason": None, "stop_sequence": None}
        message = {**self._head(), "content": [], **end, "usage": self._usage()}
        return [{"type": "message_start", "message": message}]

    def delta(self, index: int, event: Tokens) -> list[Event]:
        """Build the events for new output."""
        before, self.held = self.held, ""
        text = self._cut(event.text, event.token_ids[-1] if event.token_ids else None)
        return self.blocks.add(self.follower(index).push(before + text))

    def closing(self, index: int, finish_reason: str) -> list[Event]:
        """Build the last events."""
        follower = self.follower(index)
        events = self.blocks.add(follower.push(self._rest(finish_reason)))
        events += self.blocks.add(follower.finish(finish_reason)) + self.blocks.end()
        end = self._end(follower.reason(finish_reason))
        events.append({"type": "message_delta", "delta": end, "usage": self._usage()})
        return [*events, {"type": "message_stop"}]

    def failure(self, error: ApiError) -> Event:
        """Build the event that ends a stream which has failed."""
        return error_body(error)

    def frame(self, chunk: Event) -> bytes:
        """Frame one event of a stream as bytes, under its name."""
        return frame(chunk, chunk["type"])

    def _cut(self, text: str, token: int | None) -> str:
        """Leave out what may end the answer at the end of `text`, whose last token is `token`."""
        met = max((stop for stop in self.stops if text.endswith(stop)), key=len, default=None)
        if met is not None:
            # The engine goes on after none, so that this is the last of its text.
            self.met = met
            return text.removesuffix(met)
        special = self.hidden.get(token, "") if token is not None else ""
        if special and text.endswith(special):
            self.held = special
            return text.removesuffix(special)
        return text

    def _rest(self, reason: str) -> str:
        """What is held back, once the answer has ended, unless that has ended it."""
        return "" if reason == "stop" else self.held

    def _head(self) -> dict[str, Any]:
        return {"id": self.reply_id, "type": "message", "role": "assistant", "model": self.model}

    def _end(self, reason: str) -> dict[str, Any]:
        told = _REASONS.get(reason, "end_turn")
        if told == "end_turn" and self.met is not None:
            told = "stop_sequence"
        return {"stop_reason": told, "stop_sequence": self.met}

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }
