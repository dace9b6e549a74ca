"""What each tenant has got so far, for /metrics."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from gossamer.serving.core.stats import TenantStats

Refusal = Literal["queue", "quota", "deadline"]
REFUSALS: tuple[Refusal, ...] = ("queue", "quota", "deadline")


@dataclass(slots=True)
class _Account:
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_tokens: int = 0
    in_time: int = 0
    satisfaction: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)


class Accounts:
    """Counts by tenant. One thread writes tokens, the holder of the engine's door refusals."""

    def __init__(self, slo: float | None) -> None:
        self._slo = slo
        self._accounts: dict[str, _Account] = {}

    def of(self, tenant: str) -> _Account:
        """Made when first asked for."""
        return self._accounts.setdefault(tenant, _Account())

    def first_token(self, tenant: str, seconds: float) -> None:
        """The first token of a request came `seconds` after the request."""
        account = self.of(tenant)
        account.first_tokens += 1
        if self._slo is not None:
            account.in_time += seconds < self._slo
            account.satisfaction += satisfaction(seconds, self._slo)

    def refuse(self, tenant: str, why: Refusal) -> None:
        """A request of `tenant` was refused."""
        self.of(tenant).refused[why] += 1

    def stats(self, waiting: Counter[str], running: Counter[str]) -> tuple[TenantStats, ...]:
        """All tenants that have ever asked; `waiting` and `running` are their requests now."""
        return tuple(
            TenantStats(
                name=name,
                num_waiting=waiting[name],
                num_running=running[name],
                prompt_tokens=account.prompt_tokens,
                generated_tokens=account.generated_tokens,
                first_tokens=account.first_tokens,
                in_time=account.in_time if self._slo is not None else None,
                satisfaction=account.satisfaction if self._slo is not None else None,
                refused={why: account.refused[why] for why in REFUSALS},
            )
            for name, account in list(self._accounts.items())
        )


def satisfaction(seconds: float, slo: float) -> float:
    """1 for a first token at once, falling to 0 at the promised time (S-LoRA, section 7)."""
    return max(0.0, 1.0 - (seconds / slo) ** 2)
