"""Makes synthetic traffic as S-LoRA's evaluation defines it (arXiv 2311.03285, section 7)."""

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Self

from pydantic import Field, model_validator

from gossamer.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace."""

    time: float
    """The seconds from the start."""
    adapter: int
    """The adapter's number, 0 .. adapters - 1; the most popular first."""
    prompt_tokens: int
    output_tokens: int


class Workload(Settings):
    """The settings of a workload. The same seed gives the same trace."""

    adapters: int = Field(default=200, ge=1)
    """The number of distinct adapters."""
    popularity: Literal["power", "zipf"] = "power"
    """power: adapter i of n has the probability ((i+1)/n)^alpha - (i/n)^alpha, so alpha 1 is
    uniform and smaller is more skewed; zipf: proportional to 1/(i+1)^alpha."""
    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The exponent of the popularity."""
    rate: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Requests per second, of all adapters together."""
    cv: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Coefficient of variation of the gaps between requests: 1 is Poisson, more comes in bursts."""
    duration: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Seconds; rate times duration requests are made."""
    min_prompt: int = Field(default=8, ge=1)
    """The fewest tokens of a prompt."""
    max_prompt: int = Field(default=511, ge=1)
    """The most tokens of a prompt; lengths are uniform in between."""
    min_output: int = Field(default=8, ge=1)
    """The fewest new tokens."""
    max_output: int = Field(default=511, ge=1)
    """The most new tokens."""
    seed: int = 0
    """The seed of all random numbers."""

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name in ("prompt", "output"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least > most:
                raise ValueError(f"min_{name}={least} is more than max_{name}={most}")
        return self

    def probabilities(self) -> list[float]:
        """The probability of each adapter to be asked for; they add up to 1."""
        n, alpha = self.adapters, self.alpha
        if self.popularity == "power":
            return [((i + 1) / n) ** alpha - (i / n) ** alpha for i in range(n)]
        weights = [(i + 1) ** -alpha for i in range(n)]
        return [weight / sum(weights) for weight in weights]

    def trace(self) -> list[Arrival]:
        """Make a trace of floor(rate * duration) requests in order of time."""
        rng = random.Random(self.seed)
        adapters = self._adapters(rng)
        shape, scale = 1 / self.cv**2, self.cv**2 / self.rate
        moments = accumulate(rng.gammavariate(shape, scale) for _ in range(self.num_requests))
        return [
            Arrival(
                time=moment,
                adapter=next(adapters),
                prompt_tokens=rng.randint(self.min_prompt, self.max_prompt),
                output_tokens=rng.randint(self.min_output, self.max_output),
            )
            for moment in moments
        ]

    @property
    def num_requests(self) -> int:
        """The number of requests in the trace."""
        return int(self.rate * self.duration)

    def _adapters(self, rng: random.Random) -> Iterator[int]:
        if self.popularity == "power":
            # U^(1/alpha) has the density alpha * x^(alpha - 1).
            while True:
                yield int(self.adapters * rng.random() ** (1 / self.alpha))
        bounds = list(accumulate(self.probabilities()))
        while True:
            yield min(bisect_right(bounds, rng.random()), self.adapters - 1)
