"""When one adapter owns the traffic, so that a copy of the base weights with it merged pays."""

from collections import Counter, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

MAX_BARRED = 16
"""Adapters remembered as those that could not be merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotLimits:
    """From when to when an adapter is hot."""

    window: int = 128
    """Steps that are looked back upon; an adapter becomes hot after so many at the earliest."""
    enter: float = 0.9
    """Share of the window's tokens from which an adapter is hot ..."""
    leave: float = 0.5
    """... and below which it no longer is."""


class HotAdapterPolicy:
    """Follows the tokens of steps and names the adapter to merge (dLoRA's idea, OSDI 2024).

    Two bounds and a full window between one choice and the next keep it from going back and forth.
    """

    def __init__(self, limits: HotLimits | None = None) -> None:
        self._limits = limits or HotLimits()
        self._steps: deque[tuple[dict[Hashable, int], int]] = deque()
        self._tokens: Counter[Hashable] = Counter()
        self._total = 0
        self._barred: deque[Hashable] = deque(maxlen=MAX_BARRED)
        self.hot: Hashable | None = None
        """The adapter to merge, if any."""
        self.num_chosen = 0
        self.num_dropped = 0

    def record(self, tokens: Mapping[Hashable, int], total: int) -> None:
        """A step of `total` tokens; `tokens` of them by adapter, for those that can be merged."""
        self._steps.append((dict(tokens), total))
        self._tokens.update(tokens)
        self._total += total
        if len(self._steps) > self._limits.window:
            old, old_total = self._steps.popleft()
            self._total -= old_total
            for adapter, count in old.items():
                self._tokens[adapter] -= count
                if not self._tokens[adapter]:
                    del self._tokens[adapter]
        self._decide()

    def drop(self, *, bar: bool = False) -> None:
        """The hot adapter is gone; with `bar`, it cannot be merged and is not named again."""
        if bar:
            self._barred.append(self.hot)
        self.hot = None
        self.num_dropped += 1
        # What was seen with it must not bring it back at once.
        self._steps.clear()
        self._tokens.clear()
        self._total = 0

    def share(self, adapter: Hashable) -> float:
        """Of the window's tokens, from 0 to 1."""
        return self._tokens[adapter] / self._total if self._total else 0.0

    def _decide(self) -> None:
        if self.hot is not None:
            if self.share(self.hot) < self._limits.leave:
                self.drop()
            return
        if len(self._steps) < self._limits.window or not self._tokens:
            return
        most = max(self._tokens, key=self._tokens.__getitem__)
        if most not in self._barred and self.share(most) >= self._limits.enter:
            self.hot = most
            self.num_chosen += 1
