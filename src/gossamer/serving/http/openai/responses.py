"""Builds replies in OpenAI's shapes: plain completions, and what they share with chats."""

import codecs
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gossamer.serving.core.messages import Finished, TokenLogprob, Tokens
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.answers import AnswerFollower, AnswerRules
from gossamer.serving.http.openai.chat.field_names import THE_SAME, FieldNames
from gossamer.serving.http.openai.prompt_replies import Echo, finite, prompt_logprobs
from gossamer.serving.tokenization.vocabulary import Vocabulary


@dataclass(slots=True)
class Usage:
    """Counts the tokens of one call; a prompt counts once however many choices it has."""

    num_choices: int
    """The number of choices per prompt."""
    prompt_tokens: int
    """The tokens of all prompts."""
    completion_tokens: int = 0
    cached_tokens: int = 0
    _told: Counter[int] = field(default_factory=Counter)
    """The tokens of each choice that were told before its end."""

    def tell(self, index: int, event: Tokens) -> None:
        """Count the tokens of `event`, before the end of choice `index` is known."""
        self._told[index] += len(event.token_ids)
        self.completion_tokens += len(event.token_ids)

    def add(self, index: int, event: Finished) -> None:
        """Count the tokens of choice `index`."""
        if index % self.num_choices == 0:
            self.cached_tokens += event.cached_tokens
        self.completion_tokens += event.completion_tokens - self._told.pop(index, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(slots=True)
class Choice:
    """Gathers all of one choice."""

    index: int
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: str | None = None
    last_token: int | None = None

    def add(self, event: Tokens) -> None:
        """Append new output to the choice."""
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs
        self.texts.append(event.text)
        self.last_token = event.token_ids[-1] if event.token_ids else None
        self.logprobs.extend(event.logprobs or ())

    @property
    def size(self) -> int:
        """The number of pieces of text and log-probabilities."""
        told = (*self.logprobs, *filter(None, self.prompt_logprobs or ()))
        return len(self.texts) + sum(1 + len(token.top) for token in told)

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of its tokens, by which choices are ranked."""
        return sum(finite(t.logprob) for t in self.logprobs) / max(1, len(self.logprobs))

    @property
    def text(self) -> str:
        """The whole output."""
        return "".join(self.texts)


def likeliest(choices: list[Choice], drawn: int, kept: int) -> list[Choice]:
    """Keep `kept` of each prompt's `drawn` choices, those of highest mean log-probability."""
    if kept == drawn:
        return choices
    best: list[Choice] = []
    for start in range(0, len(choices), drawn):
        ranked = sorted(choices[start : start + drawn], key=lambda c: c.mean_logprob, reverse=True)
        best += ranked[:kept]
    for index, choice in enumerate(best):
        choice.index = index
    return best


@dataclass(slots=True)
class ReplyFormat(ABC):
    """The shapes of one route's replies, for one call."""

    prefix: ClassVar[str]
    """The start of a reply's id."""
    last_frame: ClassVar[bytes] = b"data: [DONE]\n\n"
    """What ends a stream that did not fail."""

    reply_id: str
    model: str
    created: int
    has_logprobs: bool
    vocabulary: Vocabulary
    prompt_logprobs: int | None = None
    """The likeliest tokens that are told at each place of a prompt; None: nothing is."""
    echo: Echo | None = None
    """The prompts, where answers begin with them."""
    rules: AnswerRules = field(default_factory=AnswerRules)
    """How the text of answers is read."""
    usage: Usage = field(default_factory=lambda: Usage(1, 0))
    """What the call has used so far."""
    names: FieldNames = THE_SAME
    """The names by which the client knows the fields that errors are about."""
    followers: dict[int, AnswerFollower] = field(default_factory=dict)
    """What reads the answers that are streamed, by choice."""

    @abstractmethod
    def reply(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Build a reply that is not streamed."""

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Build the chunks before the first text of a choice."""
        return []

    @abstractmethod
    def delta(self, index: int, event: Tokens) -> list[dict[str, Any]]:
        """Build the chunks for new output; none if it shows nothing."""

    @abstractmethod
    def closing(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        """Build the last chunks of a choice."""

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Build the last chunk of a stream, when usage was asked for."""
        return usage.as_dict()

    def failure(self, error: ApiError) -> dict[str, Any]:
        """Build the chunk that ends a stream which has failed."""
        return error.body()

    def frame(self, chunk: dict[str, Any]) -> bytes:
        """Frame one chunk of a stream as bytes."""
        return frame(chunk)

    def follower(self, index: int) -> AnswerFollower:
        """Return what reads the answer `index`, which is streamed."""
        if index not in self.followers:
            self.followers[index] = AnswerFollower(self.rules)
        return self.followers[index]


@dataclass(slots=True)
class ChoicesReply(ReplyFormat):
    """The replies of chats and completions, which are lists of choices."""

    kind: ClassVar[str]
    """The `object` field of a whole reply."""
    chunk_kind: ClassVar[str]
    """The `object` field of a chunk of a stream."""

    def bytes_of(self, token_id: int, text: str) -> bytes:
        """The bytes of a token of text `text`; for a part of a character, the vocabulary's."""
        return self.vocabulary.bytes_of(token_id) if "\ufffd" in text else text.encode()

    def reply(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Build a reply that is not streamed."""
        return {
            **self._head(self.kind),
            "choices": [self._whole(choice) for choice in choices],
            "usage": usage.as_dict(),
        }

    def delta(self, index: int, event: Tokens) -> list[dict[str, Any]]:
        """Build the chunks for new output; none if it shows nothing."""
        if not event.text and not event.logprobs and not (self.echo and event.prompt_logprobs):
            return []
        return [self._chunk(part) for part in self._parts(index, event)]

    def closing(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        """Build the last chunks of a choice."""
        return [self._chunk(part) for part in self._ends(index, finish_reason)]

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Build the last chunk of a stream, when usage was asked for."""
        return {**self._head(self.chunk_kind), "choices": [], "usage": usage.as_dict()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.reply_id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": [choice]}

    @abstractmethod
    def _whole(self, choice: Choice) -> dict[str, Any]: ...

    @abstractmethod
    def _parts(self, index: int, event: Tokens) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _ends(self, index: int, finish_reason: str) -> list[dict[str, Any]]: ...


def frame(data: dict[str, Any], event: str | None = None) -> bytes:
    """Frame one event of a stream as bytes; `event` is its name, if it has one."""
    name = f"event: {event}\n" if event is not None else ""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{name}data: {text}\n\n".encode()


def escaped(raw: bytes) -> str | None:
    """Write a token that is no text as OpenAI does, \\xf0\\x9f; None for one that is."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return None


@dataclass(slots=True)
class CompletionReply(ChoicesReply):
    """The replies of the completion route: text_completion, whole and in chunks."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    prefix = "cmpl-"

    offsets: dict[int, int] = field(default_factory=dict)
    """The characters of the tokens that each choice has had so far, for `text_offset`."""
    decoders: dict[int, codecs.IncrementalDecoder] = field(default_factory=dict)
    """The decoder of each choice: keeps the bytes of a character that is not complete."""

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Build the chunk with the prompt, where it is echoed without log-probabilities."""
        if self.echo is None or self.has_logprobs:
            return []
        return [self._chunk(_completion_choice(index, self.echo.of(index).text, None, None))]

    def _whole(self, choice: Choice) -> dict[str, Any]:
        index, before = choice.index, self.echo.of(choice.index).text if self.echo else ""
        logprobs = self._logprobs(index, choice.logprobs, choice.prompt_logprobs)
        whole = _completion_choice(index, before + choice.text, logprobs, choice.finish_reason)
        if self.prompt_logprobs is not None:
            told = choice.prompt_logprobs
            whole["prompt_logprobs"] = prompt_logprobs(told, self.prompt_logprobs)
        return whole

    def _parts(self, index: int, event: Tokens) -> list[dict[str, Any]]:
        told, text = event.prompt_logprobs, event.text
        if self.echo and told:
            text = self.echo.of(index).text + text
        logprobs = self._logprobs(index, event.logprobs or (), told)
        return [_completion_choice(index, text, logprobs, None)]

    def _ends(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        return [_completion_choice(index, "", None, finish_reason)]

    def _logprobs(
        self,
        index: int,
        tokens: Iterable[TokenLogprob],
        prompt: Iterable[TokenLogprob | None] | None,
    ) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        result: dict[str, list[Any]] = {
            "text_offset": [],
            "token_logprobs": [],
            "tokens": [],
            "top_logprobs": [],
        }
        if self.echo and prompt is not None:
            self._echo(index, prompt, self.echo, result)
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

    def _echo(
        self,
        index: int,
        prompt: Iterable[TokenLogprob | None],
        echo: Echo,
        result: dict[str, list[Any]],
    ) -> None:
        """Put the tokens of the prompt into `result`, the first of which has no probability."""
        shown = echo.tokens(index, self.vocabulary)
        for told, (token_id, text, offset) in zip(prompt, shown, strict=True):
            result["text_offset"].append(offset)
            result["tokens"].append(self._label(token_id, text))
            result["token_logprobs"].append(None if told is None else finite(told.logprob))
            result["top_logprobs"].append(None if told is None else self._top(told))
        self.offsets[index] = len(echo.of(index).text)

    def _label(self, token_id: int, text: str) -> str:
        part = escaped(self.bytes_of(token_id, text))
        return text if part is None else f"bytes:{part}"

    def _top(self, token: TokenLogprob) -> dict[str, float]:
        """Map texts to log-probabilities, the chosen token's too; of equal texts the likeliest."""
        entries: dict[str, float] = {}
        chosen = (token.token_id, token.text, token.logprob)
        for token_id, text, logprob in (*token.top, chosen):
            label = self._label(token_id, text)
            entries[label] = max(finite(logprob), entries.get(label, finite(logprob)))
        return entries


def _completion_choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
