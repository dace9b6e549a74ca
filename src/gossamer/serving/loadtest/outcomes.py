"""The outcome of each request of a load test, and the figures that sum them up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["finished", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The outcome of one request; times are seconds since the load began."""

    model: str
    due: float
    """The time at which the workload asked for it; latencies count from here."""
    outcome: Outcome
    """The outcome; refused: status 429 or 503; failed: any other trouble."""
    first: float | None = None
    """The time at which the first token came."""
    end: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    problem: str | None = None
    """The reason, in one line, why a request did not finish."""

    @property
    def first_token_seconds(self) -> float | None:
        """The seconds from when the request was due to its first token."""
        return None if self.first is None else self.first - self.due

    @property
    def seconds(self) -> float:
        """The seconds from when the request was due to its end."""
        return self.end - self.due


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The mean and percentiles of a latency, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestSummary:
    """The figures of all requests of a load test."""

    requests: int
    finished: int
    refused: int
    failed: int
    models: int
    """The number of different models that were asked for."""
    seconds: float
    """The seconds from the start of the load to the end of the last answer."""
    requests_per_second: float
    """The finished requests per second."""
    output_tokens_per_second: float
    total_tokens_per_second: float
    """The tokens per second, prompts of finished requests included."""
    first_token: Latency | None
    """Seconds from when a request was due to its first token; None: nothing finished."""
    per_token: Latency | None
    """Seconds from due to the end, divided by the output tokens."""
    between_tokens: Latency | None
    """Seconds from the first token to the end, per further token."""
    total: Latency | None
    attainment: float
    """Share of all requests whose first token came in time; refused and failed ones did not."""
    satisfaction: float
    """Mean of max(0, 1 - (t / SLO)^2) over all requests, t being the first token's seconds; 0 for a
    request that did not finish."""


def summarize(samples: Sequence[Sample], slo: float) -> LoadTestSummary:
    """Compute the figures of `samples`, which must not be empty."""
    done = [sample for sample in samples if sample.outcome == "finished"]
    seconds = max(sample.end for sample in samples)
    firsts = [first for sample in done if (first := sample.first_token_seconds) is not None]
    output = sum(sample.output_tokens for sample in done)
    prompts = sum(sample.prompt_tokens for sample in done)
    return LoadTestSummary(
        requests=len(samples),
        finished=len(done),
        refused=sum(sample.outcome == "refused" for sample in samples),
        failed=sum(sample.outcome == "failed" for sample in samples),
        models=len({sample.model for sample in samples}),
        seconds=seconds,
        requests_per_second=len(done) / seconds,
        output_tokens_per_second=output / seconds,
        total_tokens_per_second=(output + prompts) / seconds,
        first_token=latency(firsts),
        per_token=latency([s.seconds / s.output_tokens for s in done if s.output_tokens]),
        between_tokens=latency(
            [
                (s.end - s.first) / (s.output_tokens - 1)
                for s in done
                if s.first is not None and s.output_tokens > 1
            ]
        ),
        total=latency([sample.seconds for sample in done]),
        attainment=sum(first < slo for first in firsts) / len(samples),
        satisfaction=sum(max(0.0, 1 - (first / slo) ** 2) for first in firsts) / len(samples),
    )


def latency(values: Sequence[float]) -> Latency | None:
    """Compute mean and percentiles (nearest rank) of `values`; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)

    def percentile(percent: int) -> float:
        return ordered[-(-percent * len(ordered) // 100) - 1]

    return Latency(
        mean=sum(ordered) / len(ordered),
        p50=percentile(50),
        p90=percentile(90),
        p99=percentile(99),
    )
