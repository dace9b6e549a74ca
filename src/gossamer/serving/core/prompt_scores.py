"""Log-probabilities of a prompt's own tokens, as compact as they were computed."""

from array import array
from dataclasses import dataclass, field
from typing import Self


@dataclass(eq=False, slots=True)
class PromptScores:
    """Holds what the tokens from `first` on are to the model, each behind those before it.

    The first token of a text is behind nothing and has no log-probability, so `first` is 1 or more.
    """

    first: int
    num_top: int
    """The number of likeliest tokens that are known at each place."""
    logprobs: "array[float]" = field(default_factory=lambda: array("f"))
    ranks: "array[int]" = field(default_factory=lambda: array("q"))
    """The places of the tokens among all, the likeliest being 1."""
    top_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    """`num_top` of each, the likeliest first."""
    top_logprobs: "array[float]" = field(default_factory=lambda: array("f"))

    @property
    def end(self) -> int:
        """Return the first token that is not scored."""
        return self.first + len(self.logprobs)

    def extend(self, others: Self) -> None:
        """Append scores that begin where these end and know as many likeliest tokens, or more."""
        assert others.first == self.end, "scores are not side by side"
        self.logprobs += others.logprobs
        self.ranks += others.ranks
        width, most = self.num_top, others.num_top
        for number in range(len(others.logprobs)):
            self.top_tokens += others.top_tokens[number * most : number * most + width]
            self.top_logprobs += others.top_logprobs[number * most : number * most + width]

    def part(self, begin: int, end: int) -> "PromptScores":
        """Return the scores of the tokens from `begin` to `end`, which must be here."""
        assert self.first <= begin <= end <= self.end
        low, high, width = begin - self.first, end - self.first, self.num_top
        return PromptScores(
            begin,
            width,
            self.logprobs[low:high],
            self.ranks[low:high],
            self.top_tokens[low * width : high * width],
            self.top_logprobs[low * width : high * width],
        )

    def top(self, token: int) -> list[tuple[int, float]]:
        """Return the likeliest tokens in the place of number `token`, with log-probabilities."""
        low = (token - self.first) * self.num_top
        high = low + self.num_top
        return list(zip(self.top_tokens[low:high], self.top_logprobs[low:high], strict=True))

    @property
    def are_numbers(self) -> bool:
        """Tell whether the model has given a number for each token."""
        return all(value == value for value in self.logprobs)
