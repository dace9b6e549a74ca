"""Whether a tenant's adapters would take more memory than it may use."""

from collections.abc import Sequence as List

from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.scheduling.tenants import LimitsOf
from gossamer.serving.sequence import Sequence


class ResidentQuota:
    """Judges waiting sequences while the set of those that run does not change.

    An adapter counts once, however many of its tenant's requests, or mixtures, use it.
    """

    def __init__(self, running: List[Sequence], limits_of: LimitsOf) -> None:
        self._running = running
        self._limits_of = limits_of
        self._used: dict[str, set[AdapterEntry]] = {}
        self._quotas: dict[str, int | None] = {}

    def forbids(self, sequence: Sequence) -> bool:
        """Whether `sequence` has to wait for other requests of its tenant to end."""
        adapter = sequence.adapter
        if adapter is None or (quota := self._quota(sequence.tenant)) is None:
            return False
        used = self._in_use(sequence.tenant)
        return sum(entry.num_bytes or 0 for entry in used.union(adapter.parts)) > quota

    def _quota(self, tenant: str) -> int | None:
        if tenant not in self._quotas:
            self._quotas[tenant] = self._limits_of(tenant).resident_bytes
        return self._quotas[tenant]

    def _in_use(self, tenant: str) -> set[AdapterEntry]:
        if tenant not in self._used:
            self._used[tenant] = {
                entry
                for other in self._running
                if other.tenant == tenant and other.adapter is not None
                for entry in other.adapter.parts
            }
        return self._used[tenant]
