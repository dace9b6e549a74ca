"""Says what a tenant may use: who a request belongs to, the unit of fairness and quota."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """Limits a tenant; None: no limit."""

    share: float = 1.0
    """Share of the service, relative to other tenants who want some at the same time."""
    max_in_flight: int | None = None
    """Requests that wait or run."""
    tokens_per_minute: int | None = None
    """Prompt and new tokens together."""
    resident_bytes: int | None = None
    """Weights of the adapters that its running requests use."""


NO_LIMITS = TenantLimits()

LimitsOf = Callable[[str], TenantLimits]
"""The limits of a tenant by name, asked again each time: they may change while the server runs."""


def unlimited(tenant: str) -> TenantLimits:
    """Give all tenants equal shares and no quotas."""
    return NO_LIMITS
