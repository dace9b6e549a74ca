"""The shapes of /v1/chat/completions."""

from collections.abc import Iterable
from typing import Any

from gossamer.serving.http.replies import Choice, ReplyFormat, escaped, finite
from gossamer.serving.messages import TokenLogprob, Tokens


class ChatReply(ReplyFormat):
    """chat.completion and chat.completion.chunk."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def opening(self, index: int) -> dict[str, Any]:
        """Tells the role."""
        return self._chunk(_choice(index, {"role": "assistant", "content": ""}, None, None))

    def _whole(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
        }

    def _part(self, index: int, event: Tokens) -> dict[str, Any]:
        return _choice(index, {"content": event.text}, self._logprobs(event.logprobs or ()), None)

    def _end(self, index: int, finish_reason: str) -> dict[str, Any]:
        return _choice(index, {}, None, finish_reason)

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


def _choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
