"""Keeps adapters' rows in host memory, ready to be placed without a file: LRU, bounded."""

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterState


class HostCache:
    """Keeps rows of adapters that are placed, were placed, or wait to be placed.

    Rows stay after placing, so that an adapter which is evicted comes back by a copy. Those of an
    adapter that stays resident are not used again, so they grow old and go first.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        """`max_bytes` bounds what no request waits for; 0 keeps nothing longer than needed."""
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: dict[AdapterEntry, int] = {}

    def __contains__(self, entry: AdapterEntry) -> bool:
        return entry in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: AdapterEntry) -> None:
        """Keep its rows, which were read just now."""
        self.drop(entry)
        self._entries[entry] = entry.num_bytes or 0
        self.num_bytes += entry.num_bytes or 0

    def touch(self, entry: AdapterEntry) -> None:
        """Note that its rows were used."""
        if entry in self._entries:
            self._entries[entry] = self._entries.pop(entry)

    def drop(self, entry: AdapterEntry) -> None:
        """Forget its rows, if there are any; it must not be read from at the time."""
        size = self._entries.pop(entry, None)
        if size is None:
            return
        self.num_bytes -= size
        entry.drop_rows()

    def trim(self) -> None:
        """Drop the longest unused until the bound is kept; never those that a request waits for,
        that are pinned, or being copied."""
        if self.num_bytes <= self.max_bytes:
            return
        for entry in list(self._entries):
            if self.num_bytes <= self.max_bytes:
                return
            is_wanted = entry.state is AdapterState.HOST and entry.requests
            if is_wanted or entry.pinned or entry.state is AdapterState.PLACING:
                continue
            self.drop(entry)

    def audit(self) -> None:
        """Check that rows are where the count says."""
        assert self.num_bytes == sum(self._entries.values())
        for entry in self._entries:
            assert entry.rows is not None, f"{entry.name} has no rows"
