"""What is known of one request of a load test."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["finished", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Times are seconds since the load began."""

    model: str
    due: float
    """When the workload asked for it; latencies count from here."""
    outcome: Outcome
    """refused: status 429 or 503; failed: any other trouble."""
    first: float | None = None
    """When the first token came."""
    end: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    problem: str | None = None
    """One line, of a request that did not finish."""

    @property
    def first_token_seconds(self) -> float | None:
        """From due to the first token."""
        return None if self.first is None else self.first - self.due

    @property
    def seconds(self) -> float:
        """From due to the end."""
        return self.end - self.due
