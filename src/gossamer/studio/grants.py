"""Which models tenants were permitted to use, kept in memory: each call asks for it."""

from gossamer.jobs.store import JobStore


class Grants:
    """The permissions of all tenants, as they were at the last `refresh`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._names: dict[str, frozenset[str]] = {}

    def refresh(self) -> None:
        """Read them again; waits for the database."""
        self._names = self._store.models.granted()

    def of(self, tenant: str) -> frozenset[str]:
        """The names that `tenant` was permitted."""
        return self._names.get(tenant, frozenset())
