"""Chooses for which request adapters are brought while none runs: one, until it starts.

Copying an adapter, or computing a prefix, takes several steps, in which those who wait may come to
stand in another order, and others may ask for room. While requests run, some end, and nothing is
lost by that. But where none runs, one adapter after the other could be evicted for the next one
just before its request starts, and no request would ever start.
"""

from collections.abc import Iterable, Iterator

from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.scheduler.queue import WaitingQueue

_NEAR = (AdapterState.HOST, AdapterState.PLACING, AdapterState.RESIDENT)


class NextUp:
    """Remembers the request whose adapter was begun while none ran."""

    def __init__(self, memory: MemoryManager, waiting: WaitingQueue) -> None:
        self._memory = memory
        self._waiting = waiting
        self._sequence: Sequence | None = None

    def in_order(self, walk: Iterable[Sequence], *, nobody_runs: bool) -> Iterator[Sequence]:
        """Iterate over `walk` with the remembered one first, as long as it holds."""
        if not nobody_runs or not self._holds():
            self._sequence = None
        first = self._sequence
        if first is not None:
            yield first
        for sequence in walk:
            if sequence is not first:
                yield sequence

    def forget(self) -> None:
        """Remember none: no request waits."""
        self._sequence = None

    def _holds(self) -> bool:
        """Whether the remembered one still waits for what was begun."""
        sequence = self._sequence
        if sequence is None or sequence.adapter is None or sequence not in self._waiting:
            return False
        return sequence.adapter.state in _NEAR

    def may_start_copy(self, sequence: Sequence, *, nobody_runs: bool) -> bool:
        """Tell whether the adapter of `sequence` may be brought now, at the cost of what is idle.

        One that is placed at once, whose request therefore starts, may be, and one that fits beside
        all that is there.
        """
        adapter = sequence.adapter
        if not nobody_runs or adapter is None or self._sequence in (None, sequence):
            return True
        is_slow = any(self._memory.takes_steps(entry) for entry in adapter.parts)
        return not is_slow or adapter.blocks_to_load <= self._memory.num_free

    def begun(self, sequence: Sequence, *, nobody_runs: bool) -> None:
        """Remember that the adapter of `sequence` is on its way."""
        if nobody_runs and self._sequence is None:
            self._sequence = sequence
