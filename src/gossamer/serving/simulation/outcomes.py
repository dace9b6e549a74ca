"""Tells what became of the requests of a trace, and sums it up."""

from collections.abc import Sequence
from dataclasses import dataclass

from gossamer.serving.scheduler.usage import satisfaction


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Describes one request; times in seconds from the start of the trace."""

    arrived: float
    prompt_tokens: int
    output_tokens: int = 0
    first_token: float | None = None
    finished: float | None = None
    refused: bool = False
    tenant: str = ""

    @property
    def wait(self) -> float | None:
        """Return the first-token latency; None if there was no token."""
        return None if self.first_token is None else self.first_token - self.arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sums up a run."""

    requests: int
    finished: int
    refused: int
    throughput: float
    """Finished requests per second, until the last one has finished."""
    output_rate: float
    """New tokens per second."""
    first_token_mean: float
    first_token_p50: float
    first_token_p90: float
    first_token_p99: float
    """Seconds, of requests that got a token."""
    attainment: float
    """Share of all requests that had the first token in time; refused ones did not."""
    attainment_of_admitted: float
    """Share of the requests not refused that had the first token in time."""
    satisfaction: float
    """Mean of max(0, 1 - (seconds to the first token / promised seconds)^2); 0 for refused ones."""


def summarize(outcomes: Sequence[Outcome], slo: float) -> Summary:
    """Sum up `outcomes`, with `slo` seconds to the first token as the promise."""
    waits = sorted(outcome.wait for outcome in outcomes if outcome.wait is not None)
    finished = [o for o in outcomes if o.finished is not None]
    span = max((o.finished or 0.0 for o in finished), default=0.0)
    refused = sum(o.refused for o in outcomes)
    in_time = sum(wait < slo for wait in waits)
    return Summary(
        requests=len(outcomes),
        finished=len(finished),
        refused=refused,
        throughput=len(finished) / span if span else 0.0,
        output_rate=sum(o.output_tokens for o in finished) / span if span else 0.0,
        first_token_mean=sum(waits) / len(waits) if waits else 0.0,
        first_token_p50=percentile(waits, 0.5),
        first_token_p90=percentile(waits, 0.9),
        first_token_p99=percentile(waits, 0.99),
        attainment=in_time / max(1, len(outcomes)),
        attainment_of_admitted=in_time / max(1, len(outcomes) - refused),
        satisfaction=sum(satisfaction(wait, slo) for wait in waits) / max(1, len(outcomes)),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of `ordered` do not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
