"""Makes text of tokens as they come: whole characters alone, up to a stop text."""

import codecs
from typing import Any, Protocol

from gossamer.serving.tokenization.vocabulary import Vocabulary, vocabulary_of

# Where each byte is a token, more than four of them complete no character.
_PATIENCE = 5


class _Pieces(Protocol):
    """Text of tokens as soon as it is certain."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class TextStream:
    """Makes the text of one sequence; what may yet become part of a stop text is held back."""

    def __init__(
        self,
        tokenizer: Any,
        stops: tuple[str, ...],
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        kept_special_tokens: tuple[int, ...] = (),
    ) -> None:
        """`include_stop` and those of special tokens are as in `SamplingParams`."""
        self._stops = stops
        self._include_stop = include_stop
        vocabulary = vocabulary_of(tokenizer)
        special = vocabulary.special_ids if skip_special_tokens else frozenset()
        self._special = special.difference(kept_special_tokens)
        self._pieces: _Pieces = (
            _ByteText(vocabulary)
            if vocabulary.is_concatenated
            # What is skipped does not get there.
            else _WindowText(tokenizer, skip_special_tokens and not kept_special_tokens)
        )
        self._held = ""
        self.met_stop = False
        """Whether a stop text has ended the text."""

    def push(self, token: int, *, look_for_stops: bool = True) -> tuple[str, bool]:
        """Add a token; returns text that is now certain, and whether a stop text was met."""
        if token in self._special:
            return "", False
        piece = self._pieces.push(token)
        if not piece:
            return "", False
        self._held += piece
        return self._release(look_for_stops), self.met_stop

    def finish(self, *, look_for_stops: bool = True) -> str:
        """Return the rest, up to a stop text in it, once no more tokens come."""
        if self.met_stop:
            return ""
        self._held += self._pieces.finish()
        text = self._release(look_for_stops)
        if not self.met_stop:
            text, self._held = text + self._held, ""
        return text

    def _release(self, look_for_stops: bool) -> str:
        if look_for_stops:
            met = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
            if met:
                place, stop = min(met)
                end = place + len(stop) if self._include_stop else place
                text, self._held = self._held[:end], ""
                self.met_stop = True
                return text
        keep = self._undecided() if look_for_stops else 0
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _undecided(self) -> int:
        """Length of the longest tail of the held text with which a stop text begins."""
        longest = min(max((len(s) for s in self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class _ByteText:
    """Text of vocabularies whose tokens are bytes: one may end a character and begin the next."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class _WindowText:
    """Text of other vocabularies, where a token's text depends on those before it: decoding
    starts a few tokens back. Their tokens are whole characters, or a byte each."""

    def __init__(self, tokenizer: Any, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tokens: list[int] = []
        self._start = 0
        self._shown = 0

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        pending = len(self._tokens) - self._shown
        if now.endswith("\ufffd") and pending <= _PATIENCE:
            # A character is incomplete.
            return ""
        if len(now) <= len(before):
            # The token shows nothing; many such must not make every decoding longer.
            if pending > _PATIENCE:
                del self._tokens[self._shown :]
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return now[len(before) :]

    def finish(self) -> str:
        before = self._decode(self._tokens[self._start : self._shown])
        rest = self._decode(self._tokens[self._start :])[len(before) :]
        self._start = self._shown = len(self._tokens)
        return rest

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special_tokens)
        return text
