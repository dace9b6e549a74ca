"""Has the model compute prefixes, chunk by chunk, in steps beside requests."""

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.store.manager import AdapterManager


class PrefixFills:
    """Brings virtual tokens into the blocks of their adapter, as sequences of their own.

    One adapter at a time, in the order in which they were begun. A sequence that fills is no
    request: it counts not among those that run, is never put back and says nothing. The requests
    for its adapter wait as they do for a copy; when the last of them has left, so does it.
    """

    def __init__(self, memory: MemoryManager, adapters: AdapterManager) -> None:
        self._memory = memory
        self._adapters = adapters
        self._current: Sequence | None = None

    @property
    def num_left(self) -> int:
        """Count the virtual tokens that are still to be computed, of all that were begun."""
        total = sum(entry.num_virtual_tokens for entry in self._memory.computing)
        return total - (self._current.num_computed if self._current is not None else 0)

    def next(self) -> Sequence | None:
        """Return the sequence whose turn it is; None if there is nothing to compute now."""
        computing = self._memory.computing
        for entry in [entry for entry in computing if not entry.requests]:
            self._forget(entry)
            self._adapters.stop_computing(entry)
            computing.remove(entry)
        if computing and self._current is None:
            self._current = _sequence(computing[0])
        if self._current is not None and not self._current.num_to_compute:
            return None  # The last of it is in flight.
        return self._current

    def computed(self, sequence: Sequence) -> None:
        """Take note that a chunk of `sequence` was computed."""
        entry = sequence.prefix_of
        assert entry is not None
        if sequence is self._current and not sequence.num_to_compute:
            self._forget(entry)
            self._adapters.end_computing(entry)

    def failed(self, sequence: Sequence, error: Exception) -> None:
        """Refuse the adapter of `sequence`, of which a chunk could not be computed."""
        entry = sequence.prefix_of
        assert entry is not None
        if sequence is self._current:
            self._forget(entry)
            self._adapters.end_computing(entry, error)

    def _forget(self, entry: AdapterEntry) -> None:
        if self._current is not None and self._current.prefix_of is entry:
            self._current = None


def chunk_of_fill(left: int, budget: int) -> int:
    """Return how many of `left` virtual tokens to compute in a step with room for `budget`.

    Half of the room: prompts, and those who wait to start, share the other half.
    """
    return min(left, max(1, budget // 2))


def _sequence(entry: AdapterEntry) -> Sequence:
    tokens = [0] * entry.num_virtual_tokens
    return Sequence(
        request=Request(request_id=f"prefix of {entry.name}", prompt_token_ids=tuple(tokens)),
        adapter=None,
        max_new_tokens=0,
        token_ids=tokens,
        blocks=entry.blocks,
        prefix_of=entry,
    )
