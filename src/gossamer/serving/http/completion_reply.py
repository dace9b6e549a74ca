"""The shapes of /v1/completions."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.http.replies import Choice, ReplyFormat, escaped, finite
from gossamer.serving.messages import TokenLogprob, Tokens


@dataclass(slots=True)
class CompletionReply(ReplyFormat):
    """text_completion, whole and in chunks."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    prefix = "cmpl-"

    offsets: dict[int, int] = field(default_factory=dict)
    """Characters of the tokens that a choice has had so far, for `text_offset` ..."""
    decoders: dict[int, codecs.IncrementalDecoder] = field(default_factory=dict)
    """... and what is there of a character that is not complete."""

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
        decoder = self.decoders.setdefault(index, codecs.getincrementaldecoder("utf-8")("replace"))
        offset = self.offsets.get(index, 0)
        for token in tokens:
            result["text_offset"].append(offset)
            result["token_logprobs"].append(finite(token.logprob))
            result["tokens"].append(self._label(token.token_id, token.text))
            result["top_logprobs"].append(self._top(token))
            offset += len(decoder.decode(self.bytes_of(token.token_id, token.text)))
        self.offsets[index] = offset
        return result

    def _label(self, token_id: int, text: str) -> str:
        part = escaped(self.bytes_of(token_id, text))
        return text if part is None else f"bytes:{part}"

    def _top(self, token: TokenLogprob) -> dict[str, float]:
        """Text to log-probability, the chosen token included; of equal texts the likeliest."""
        entries: dict[str, float] = {}
        chosen = (token.token_id, token.text, token.logprob)
        for token_id, text, logprob in (*token.top, chosen):
            label = self._label(token_id, text)
            entries[label] = max(finite(logprob), entries.get(label, finite(logprob)))
        return entries


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
