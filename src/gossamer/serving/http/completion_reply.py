"""The shapes of /v1/completions."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.http.replies import Choice, ReplyFormat, finite
from gossamer.serving.messages import TokenLogprob, Tokens


@dataclass(slots=True)
class CompletionReply(ReplyFormat):
    """text_completion, whole and in chunks."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    prefix = "cmpl-"

    offsets: dict[int, int] = field(default_factory=dict)
    """Characters of the tokens that a choice has streamed so far, for `text_offset`."""

    def _whole(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice.index, choice.logprobs)
        return _choice(choice.index, choice.text, logprobs, choice.finish_reason)

    def _part(self, index: int, event: Tokens) -> dict[str, Any]:
        return _choice(index, event.text, self._logprobs(index, event.logprobs or ()), None)

    def _end(self, index: int, finish_reason: str) -> dict[str, Any]:
        return _choice(index, "", None, finish_reason)

    def _logprobs(self, index: int, tokens: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        result: dict[str, list[Any]] = {
            "text_offset": [],
            "token_logprobs": [],
            "tokens": [],
            "top_logprobs": [],
        }
        offset = self.offsets.get(index, 0)
        for token in tokens:
            result["text_offset"].append(offset)
            result["token_logprobs"].append(finite(token.logprob))
            result["tokens"].append(token.text)
            result["top_logprobs"].append(_top(token))
            offset += len(token.text)
        self.offsets[index] = offset
        return result


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _top(token: TokenLogprob) -> dict[str, float]:
    """Text to log-probability, the chosen token included; of equal texts the likeliest counts."""
    entries: dict[str, float] = {}
    chosen = (token.token_id, token.text, token.logprob)
    for _, text, logprob in (*token.top, chosen):
        entries[text] = max(finite(logprob), entries.get(text, finite(logprob)))
    return entries
