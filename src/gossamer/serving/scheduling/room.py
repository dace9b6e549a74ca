"""Is there room for one more? Adapter blocks and future key/value blocks in one currency."""

from collections.abc import Iterable

from gossamer.serving.adapter_entry import AdapterState
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.admission import blocks_for, peak_blocks
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.sequence import Sequence


class Room:
    """Judges waiting sequences while the set of those that run does not change.

    What a sequence needs is told by three numbers. One that needs no less in any of them than
    another that did not fit does not fit either, so most of a long queue costs three comparisons.
    """

    def __init__(
        self,
        running: Iterable[Sequence],
        pool: BlockPool,
        adapters: AdapterStore,
        *,
        block_tokens: int,
        expected_new_tokens: int,
    ) -> None:
        self._adapters = adapters
        self._block_tokens = block_tokens
        self._expected_new_tokens = expected_new_tokens
        self._free = pool.num_free + adapters.num_reclaimable()
        self._expected = [self._held_and_to_come(sequence) for sequence in running]
        self._held = sum(len(sequence.blocks) for sequence in running)
        self._misfits: list[tuple[int, int, int]] = []

    def fits(self, sequence: Sequence) -> bool:
        """Whether `sequence` may start now and, as far as is known, run to its end."""
        adapter = sequence.adapter
        if adapter is not None and not self._adapters.can_acquire(adapter):
            return False
        # Parts that are to be placed, or are idle and would no longer count as reclaimable: pinned
        # ones never did.
        adapter_blocks = sum(
            part.num_blocks or 0
            for part in (adapter.parts if adapter is not None else ())
            if part.state is not AdapterState.RESIDENT or not (part.users or part.pinned)
        )
        held, to_come = self._held_and_to_come(sequence)
        # What a running sequence holds anyway costs nothing.
        held -= self._adapters.prefixes.num_hits_in_use(sequence) * self._block_tokens
        for misfit in self._misfits:
            if adapter_blocks >= misfit[0] and held >= misfit[1] and to_come >= misfit[2]:
                return False
        if self._has_room(adapter_blocks, held, to_come):
            return True
        self._misfits.append((adapter_blocks, held, to_come))
        return False

    def _has_room(self, adapter_blocks: int, held: int, to_come: int) -> bool:
        if adapter_blocks + blocks_for(held, self._block_tokens) > self._free:
            return False
        if not self._expected:
            # Alone it fits: that was checked when it came.
            return True
        peak = peak_blocks([*self._expected, (held, to_come)], self._block_tokens)
        return adapter_blocks + peak <= self._free + self._held

    def _held_and_to_come(self, sequence: Sequence) -> tuple[int, int]:
        return len(sequence.token_ids), min(sequence.num_left, self._expected_new_tokens)
