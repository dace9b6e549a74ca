"""Builds the replies of the chat route."""

from collections.abc import Iterable
from typing import Any

from gossamer.serving.core.messages import TokenLogprob, Tokens
from gossamer.serving.http.openai.chat.answers import (
    CallPiece,
    OpenedCall,
    Piece,
    gather,
)
from gossamer.serving.http.openai.prompt_replies import finite, prompt_logprobs
from gossamer.serving.http.openai.responses import Choice, ChoicesReply, Usage, escaped
from gossamer.serving.tokenization.tool_calls.parts import ReasoningPart, TextPart


class ChatReply(ChoicesReply):
    """The replies of the chat route: chat.completion and chat.completion.chunk."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Build the first chunk, which tells the role."""
        # An answer that only calls has no content, which is not known yet.
        content = None if self.rules.has_tools else ""
        first = {"role": "assistant", "content": content}
        return [self._chunk(_chat_choice(index, first, None, None))]

    def reply(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Build a reply that is not streamed; it tells of the prompt once."""
        reply = super().reply(choices, usage)
        if self.prompt_logprobs is not None:
            told = choices[0].prompt_logprobs
            reply["prompt_logprobs"] = prompt_logprobs(told, self.prompt_logprobs)
        return reply

    def _whole(self, choice: Choice) -> dict[str, Any]:
        answer = gather(self.rules, choice.text, choice.finish_reason or "stop")
        empty = None if self.rules.has_tools else ""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.content or empty,
            "refusal": None,
        }
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [
                _call(each.call_id, each.name, each.arguments) for each in answer.calls
            ]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": answer.finish_reason,
        }

    def _parts(self, index: int, event: Tokens) -> list[dict[str, Any]]:
        deltas = [_delta(piece) for piece in self.follower(index).push(event.text)]
        if not deltas and event.logprobs:
            deltas = [{"content": ""} if not self.rules.has_tools else {}]
        logprobs = self._logprobs(event.logprobs or ())
        # Those of a token go with the first piece that it has brought.
        return [
            _chat_choice(index, delta, logprobs if number == 0 else self._logprobs(()), None)
            for number, delta in enumerate(deltas)
        ]

    def _ends(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        follower = self.follower(index)
        deltas = [_delta(piece) for piece in follower.finish(finish_reason)]
        return [
            *(_chat_choice(index, delta, self._logprobs(()), None) for delta in deltas),
            _chat_choice(index, {}, None, follower.reason(finish_reason)),
        ]

    def _logprobs(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: TokenLogprob) -> dict[str, Any]:
        return {
            **self._entry(token.token_id, token.text, token.logprob),
            "top_logprobs": [self._entry(*each) for each in token.top],
        }

    def _entry(self, token_id: int, text: str, logprob: float) -> dict[str, Any]:
        raw = self.bytes_of(token_id, text)
        return {"token": escaped(raw) or text, "logprob": finite(logprob), "bytes": list(raw)}


def _delta(piece: Piece) -> dict[str, Any]:
    match piece:
        case TextPart(text):
            return {"content": text}
        case ReasoningPart(text):
            return {"reasoning_content": text}
        case OpenedCall(index, call_id, name):
            return {"tool_calls": [{"index": index, **_call(call_id, name, "")}]}
        case CallPiece(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _chat_choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
