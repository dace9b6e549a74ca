"""Counts what each tenant has got so far, for /metrics."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from gossamer.serving.core.stats import TenantStats

Refusal = Literal["queue", "quota", "deadline"]
REFUSALS: tuple[Refusal, ...] = ("queue", "quota", "deadline")


@dataclass(slots=True)
class _TenantCounts:
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_tokens: int = 0
    in_time: int = 0
    satisfaction: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)


class TenantUsage:
    """Counts by tenant: one thread tokens, the holder of the engine's lock refusals."""

    def __init__(self, slo: float | None) -> None:
        self._slo = slo
        self._counts: dict[str, _TenantCounts] = {}

    def of(self, tenant: str) -> _TenantCounts:
        """Return the counts of `tenant`, made when first asked for."""
        counts = self._counts.get(tenant)
        if counts is None:
            # Other threads count refusals: there is one of each tenant all the same.
            counts = self._counts.setdefault(tenant, _TenantCounts())
        return counts

    def first_token(self, tenant: str, seconds: float) -> None:
        """Count a first token that came `seconds` after its request."""
        counts = self.of(tenant)
        counts.first_tokens += 1
        if self._slo is not None:
            counts.in_time += seconds < self._slo
            counts.satisfaction += satisfaction(seconds, self._slo)

    def refuse(self, tenant: str, why: Refusal) -> None:
        """Count a refused request of `tenant`."""
        self.of(tenant).refused[why] += 1

    def stats(self, waiting: Counter[str], running: Counter[str]) -> tuple[TenantStats, ...]:
        """Show all tenants that have ever asked; `waiting` and `running` are their requests now."""
        return tuple(
            TenantStats(
                name=name,
                num_waiting=waiting[name],
                num_running=running[name],
                prompt_tokens=counts.prompt_tokens,
                generated_tokens=counts.generated_tokens,
                first_tokens=counts.first_tokens,
                in_time=counts.in_time if self._slo is not None else None,
                satisfaction=counts.satisfaction if self._slo is not None else None,
                refused={why: counts.refused[why] for why in REFUSALS},
            )
            for name, counts in list(self._counts.items())
        )


def satisfaction(seconds: float, slo: float) -> float:
    """Return 1 for a first token at once, falling to 0 at the promised time (S-LoRA, section 7)."""
    return max(0.0, 1.0 - (seconds / slo) ** 2)
