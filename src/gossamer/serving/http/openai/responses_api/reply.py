"""Builds the replies of /v1/responses: a response, whole or told by events."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.core.messages import Tokens
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.answers import AnswerFollower
from gossamer.serving.http.openai.responses import Choice, ReplyFormat, Usage, frame
from gossamer.serving.http.openai.responses_api.items import Event, OutputItems


def _forget(response: dict[str, Any]) -> None:
    """Keep nothing."""


def _cut_by(follower: AnswerFollower, reason: str) -> str | None:
    """What has cut an answer that the engine has ended for `reason`; None: it is whole."""
    if reason == "length":
        return "max_output_tokens"
    # OpenAI's interface has no stop texts, so no name for one that was met within a call.
    return "stop" if follower.has_cut_call else None


@dataclass(slots=True)
class ResponsesReply(ReplyFormat):
    """The replies of the responses route: one response, or the events of its stream."""

    prefix = "resp_"
    last_frame = b""

    request: dict[str, Any] = field(default_factory=dict)
    """The fields of the call, which a response repeats."""
    keep: Callable[[dict[str, Any]], None] = _forget
    """Gets the response once it is whole."""
    items: OutputItems = field(default_factory=lambda: OutputItems(""))
    num_events: int = 0

    def reply(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Build a reply that is not streamed."""
        [choice] = choices
        reason, follower = choice.finish_reason or "stop", AnswerFollower(self.rules)
        self.items.add(follower.push(choice.text))
        self.items.add(follower.finish(reason))
        cut_by = _cut_by(follower, reason)
        self.items.close(is_cut=cut_by is not None)
        return self._finished(cut_by)

    def opening(self, index: int) -> list[Event]:
        """Build the events before the first text."""
        response = self._response("in_progress")
        return self._numbered(
            [
                {"type": "response.created", "response": response},
                {"type": "response.in_progress", "response": response},
            ]
        )

    def delta(self, index: int, event: Tokens) -> list[Event]:
        """Build the events for new output."""
        return self._numbered(self.items.add(self.follower(index).push(event.text)))

    def closing(self, index: int, finish_reason: str) -> list[Event]:
        """Build the last events."""
        follower = self.follower(index)
        events = self.items.add(follower.finish(finish_reason))
        cut_by = _cut_by(follower, finish_reason)
        events += self.items.close(is_cut=cut_by is not None)
        response = self._finished(cut_by)
        events.append({"type": f"response.{response['status']}", "response": response})
        return self._numbered(events)

    def failure(self, error: ApiError) -> Event:
        """Build the event that ends a stream which has failed."""
        said = error.body()["error"]
        # Clients look for OpenAI's error below `error`, whatever the event.
        told = {"code": said["code"], "message": said["message"], "param": said["param"]}
        return self._numbered([{"type": "error", **told, "error": said}])[0]

    def frame(self, chunk: Event) -> bytes:
        """Frame one event of a stream as bytes, under its name."""
        return frame(chunk, chunk["type"])

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self.num_events
            self.num_events += 1
        return events

    def _finished(self, cut_by: str | None) -> dict[str, Any]:
        response = self._response("completed" if cut_by is None else "incomplete", cut_by)
        self.keep(response)
        return response

    def _response(self, status: str, cut_by: str | None = None) -> dict[str, Any]:
        given = self.request
        return {
            "id": self.reply_id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": cut_by} if cut_by is not None else None,
            "instructions": given.get("instructions"),
            "max_output_tokens": given.get("max_output_tokens"),
            "metadata": given.get("metadata", {}),
            "model": self.model,
            "output": list(self.items.done),
            "parallel_tool_calls": given.get("parallel_tool_calls", True),
            "previous_response_id": given.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None, **given.get("reasoning", {})},
            "store": given.get("store", True),
            "temperature": given.get("temperature", 1.0),
            "text": {"format": {"type": "text"}, **given.get("text", {})},
            "tool_choice": given.get("tool_choice", "auto"),
            "tools": given.get("tools", []),
            "top_p": given.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if status == "in_progress" else self._usage(),
            "user": None,
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
