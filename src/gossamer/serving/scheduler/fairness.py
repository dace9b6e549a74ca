"""Fairness between tenants: a virtual counter for each, charged for the work its requests cause.

The tenant with the smallest counter goes next (Virtual Token Counter, arXiv 2401.00588). A prompt
token is charged 1 and a new token 2, as there; what an adapter adds to both, and loading one, is
charged on top. A tenant that comes back from idleness starts level with the least served of those
who wait, so that no one saves up credit. Those who want service get all that others leave.
"""

from collections import Counter

from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tenants import LimitsOf, unlimited

PROMPT_CHARGE = 1.0
OUTPUT_CHARGE = 2.0
LOAD_BYTES_PER_TOKEN = 2.5e6
"""Adapter bytes that load in the time of one prompt token: 1 GB/s beside 400 tokens/s of a small
model on two cores, 25 GB/s beside 10,000 tokens/s of a 7B model on one GPU."""


class VirtualCounters:
    """Keeps the counters of all tenants, and which of them have requests waiting."""

    def __init__(self, limits_of: LimitsOf = unlimited) -> None:
        self._limits_of = limits_of
        self._counters: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._last_to_wait: str | None = None

    @property
    def waiting(self) -> set[str]:
        """Return the tenants that have requests waiting."""
        return set(self._waiting)

    def of(self, tenant: str) -> float:
        """Return the service charged so far, per unit of share, idle time levelled."""
        return self._counters.get(tenant, 0.0)

    def arrive(self, tenant: str) -> None:
        """A request of `tenant` begins to wait."""
        if not self._waiting[tenant]:
            own = self.of(tenant)
            others = [self.of(other) for other in self._waiting]
            if not others and self._last_to_wait is not None:
                others = [self.of(self._last_to_wait)]
            self._counters[tenant] = max(own, min(others, default=own))
        self._waiting[tenant] += 1

    def depart(self, tenant: str) -> None:
        """A request of `tenant` waits no more."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._last_to_wait = tenant

    def charge(self, tenant: str, amount: float) -> None:
        """Add `amount` of service."""
        share = self._limits_of(tenant).share
        self._counters[tenant] = self.of(tenant) + amount / share


def prompt_charge(sequence: Sequence, base_bytes: int) -> float:
    """Return the charge for admitting `sequence`: its whole prompt."""
    return PROMPT_CHARGE * sequence.num_prompt * (1 + adapter_share(sequence.adapter, base_bytes))


def output_charge(adapter: AnyAdapter | None, base_bytes: int) -> float:
    """Return the charge for one new token."""
    return OUTPUT_CHARGE * (1 + adapter_share(adapter, base_bytes))


def load_charge(entry: AdapterEntry) -> float:
    """Return the charge for bringing `entry` into the pool: a copy, or virtual tokens."""
    if not entry.is_copied:
        return PROMPT_CHARGE * entry.num_virtual_tokens
    return (entry.num_bytes or 0) / LOAD_BYTES_PER_TOKEN


def adapter_share(adapter: AnyAdapter | None, base_bytes: int) -> float:
    """Return the work of `adapter` for a token, relative to the base model's.

    It is the ratio of their weights: proportional to the rank for low-rank adapters, and right for
    any other kind.
    """
    if adapter is None or not base_bytes:
        return 0.0
    return (adapter.num_bytes or 0) / base_bytes


def service_gap_bound(
    *, longest_prompt: int, output_tokens: int, adapter_bytes: int = 0, base_bytes: int = 0
) -> float:
    """Return how far the service of two tenants can drift apart while both have requests waiting.

    `output_tokens` are all that running requests can still produce together. A tenant is served
    only while its counter is the smallest; from then on the one admission and what its running
    requests produce are charged, so counters differ by at most that, and the service of two tenants
    over any time by at most twice that (as arXiv 2401.00588 shows for its counters).
    """
    factor = 1 + (adapter_bytes / base_bytes if base_bytes else 0.0)
    admission = PROMPT_CHARGE * longest_prompt * factor + adapter_bytes / LOAD_BYTES_PER_TOKEN
    return 2 * (admission + OUTPUT_CHARGE * output_tokens * factor)
