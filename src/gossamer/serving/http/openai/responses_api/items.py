"""Makes the items of a response out of an answer's pieces, and the events that tell of them."""

from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.http.openai.chat.answers import CallPiece, OpenedCall, Piece
from gossamer.serving.tokenization.tool_calls.parts import ReasoningPart, TextPart

Event = dict[str, Any]


@dataclass(slots=True)
class OutputItems:
    """The items of one response as they come: messages, thoughts and calls.

    Whole and streamed responses are made the same way; the former leave the events out.
    """

    suffix: str
    """The end of the ids of items."""
    done: list[dict[str, Any]] = field(default_factory=list)
    """The items that are whole."""
    _kind: str = ""
    _text: list[str] = field(default_factory=list)
    _call: OpenedCall | None = None

    def add(self, pieces: list[Piece]) -> list[Event]:
        """Take in what has come; returns the events that tell of it."""
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case TextPart(text):
                    events += [*self._in("message"), *self._delta("output_text", text)]
                case ReasoningPart(text):
                    events += [*self._in("reasoning"), *self._delta("reasoning_text", text)]
                case OpenedCall():
                    events += self.end()
                    self._call = piece
                    events += self._open("function_call")
                case CallPiece(_, text):
                    self._text.append(text)
                    events.append(self._event("response.function_call_arguments.delta", delta=text))
        return events

    def end(self, status: str = "completed") -> list[Event]:
        """End the item that is open, if there is one; returns the events that tell of it."""
        if not self._kind:
            return []
        text, events = "".join(self._text), []
        if self._kind == "function_call":
            assert self._call is not None
            events.append(
                self._event(
                    "response.function_call_arguments.done", arguments=text, name=self._call.name
                )
            )
        else:
            part = _part(self._kind, text)
            told: dict[str, Any] = {"text": text}
            if self._kind == "message":
                told["logprobs"] = []
            events.append(self._event(f"response.{part['type']}.done", content_index=0, **told))
            events.append(self._event("response.content_part.done", content_index=0, part=part))
        item = self._item(status, text)
        index = len(self.done)
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
        self.done.append(item)
        self._kind, self._call = "", None
        self._text.clear()
        return events

    def close(self, *, is_cut: bool) -> list[Event]:
        """End the last item; a response without any gets an empty message."""
        events = [] if self._kind or self.done else self._in("message")
        return events + self.end("incomplete" if is_cut else "completed")

    def _in(self, kind: str) -> list[Event]:
        """Be in an item of `kind`: the open one, or a new one."""
        return [] if self._kind == kind else [*self.end(), *self._open(kind)]

    def _open(self, kind: str) -> list[Event]:
        self._kind = kind
        item = self._item("in_progress", "")
        index = len(self.done)
        events: list[Event] = [
            {"type": "response.output_item.added", "output_index": index, "item": item}
        ]
        if kind != "function_call":
            item["content"] = []
            part = _part(kind, "")
            events.append(self._event("response.content_part.added", content_index=0, part=part))
        return events

    def _delta(self, name: str, text: str) -> list[Event]:
        self._text.append(text)
        told: dict[str, Any] = {"delta": text}
        if name == "output_text":
            told["logprobs"] = []
        return [self._event(f"response.{name}.delta", content_index=0, **told)]

    def _event(self, kind: str, **fields: Any) -> Event:
        item_id, index = self._item_id(), len(self.done)
        return {"type": kind, "item_id": item_id, "output_index": index, **fields}

    def _item_id(self) -> str:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[self._kind]
        return f"{prefix}_{self.suffix}{len(self.done)}"

    def _item(self, status: str, text: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id(), "type": self._kind, "status": status}
        if self._kind == "function_call":
            assert self._call is not None
            called = {"call_id": self._call.call_id, "name": self._call.name, "arguments": text}
            return item | called
        item["content"] = [_part(self._kind, text)]
        own: dict[str, Any] = {"role": "assistant"}
        return item | (own if self._kind == "message" else {"summary": []})


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
