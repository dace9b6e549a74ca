"""Tokens to text as they come: multi-byte characters whole, stop texts found across tokens."""

from typing import Any

# A character has at most four bytes: when more tokens than that do not complete one, none will.
_PATIENCE = 5


class TextStream:
    """The text of one sequence. Text that may yet become part of a stop text is held back."""

    def __init__(self, tokenizer: Any, stops: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._special = frozenset(tokenizer.all_special_ids)
        self._tokens: list[int] = []
        # Decoding starts a few tokens back, since a token's text depends on those before it.
        self._start = 0
        self._shown = 0
        self._held = ""

    def push(self, token: int, *, look_for_stops: bool = True) -> tuple[str, bool]:
        """Add a token; returns text that is now certain, and whether a stop text was met."""
        if token in self._special:
            return "", False
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        pending = len(self._tokens) - self._shown
        if now.endswith("\ufffd") and pending <= _PATIENCE:
            # A character is incomplete.
            return "", False
        if len(now) <= len(before):
            # The token shows nothing; many such must not make every decoding longer.
            if pending > _PATIENCE:
                del self._tokens[self._shown :]
            return "", False
        self._start, self._shown = self._shown, len(self._tokens)
        self._held += now[len(before) :]
        return self._release(look_for_stops)

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        before = self._decode(self._tokens[self._start : self._shown])
        rest = self._decode(self._tokens[self._start :])[len(before) :]
        text, self._held = self._held + rest, ""
        self._start = self._shown = len(self._tokens)
        return text

    def _release(self, look_for_stops: bool) -> tuple[str, bool]:
        if look_for_stops:
            met = [self._held.find(stop) for stop in self._stops if stop in self._held]
            if met:
                text, self._held = self._held[: min(met)], ""
                return text, True
        keep = self._undecided() if look_for_stops else 0
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text, False

    def _undecided(self) -> int:
        """Length of the longest tail of the held text with which a stop text begins."""
        longest = min(max((len(s) for s in self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text
