"""Builds the arrays of each operation from the adapters of a step and the tokens they meet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gossamer.adapters.edit_positions import positions_to_edit
from gossamer.kernels import gain, grouped_lora, hidden_edit, sparse_delta
from gossamer.kernels.arena import TableArena
from gossamer.kernels.gain import GainBatch
from gossamer.kernels.grouped_lora import LoraBatch
from gossamer.kernels.hidden_edit import EditBatch, EditTable
from gossamer.kernels.hidden_edit.batch import FIRST, LAST
from gossamer.kernels.runs import Run
from gossamer.kernels.sparse_delta import SparseBatch
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.packing.resident import Resident
from gossamer.serving.scheduler.step import ScheduledChunk

Part = tuple[ScheduledChunk, int, list[tuple[Resident, float]]]
"""A sequence's part of the batch, its first token, and the adapters it meets with their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterBatch:
    """The adapters' part of a batch; each field is None where no token of the step needs it."""

    lora: LoraBatch | None = None
    gain: GainBatch | None = None
    sparse: SparseBatch | None = None
    edits: EditBatch | None = None


def resident_of(entry: AdapterEntry) -> Resident:
    """Return what the loader has made of a resident adapter."""
    assert isinstance(entry.table, Resident), f"{entry.name} is not resident"
    return entry.table


class AdapterBatchBuilder:
    """Builds the adapters' part of a batch; keeps the tables of adapters that were used lately."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._lora = grouped_lora.table_arena()
        self._gain = gain.table_arena()
        self._sparse = sparse_delta.table_arena()
        self._edits = hidden_edit.table_arena()
        self._key: list[Any] = []
        self._kept: list[list[tuple[Resident, float]]] = []
        """What the key names by identity."""
        self._batch = AdapterBatch()

    def build(
        self, step: Sequence[ScheduledChunk], starts: Sequence[int], hot: AdapterEntry | None = None
    ) -> AdapterBatch:
        """Build the arrays of `step` in the order of the batch; starts: each part's first token.

        hot: the adapter that the base weights of this step hold already.
        """
        parts = [
            (part, start, _residents(part, hot)) for part, start in zip(step, starts, strict=True)
        ]
        # While the same sequences decode, only what is edited can differ from step to step.
        key = [
            (start, part.count, [(id(resident), weight) for resident, weight in residents])
            for part, start, residents in parts
        ]
        if key != self._key:
            self._key, self._kept = key, [residents for _, _, residents in parts]
            self._batch = self._build(parts)
        if any(resident.edit is not None for residents in self._kept for resident, _ in residents):
            return replace(self._batch, edits=self._edit_batch(parts))
        return self._batch

    def _build(self, parts: list[Part]) -> AdapterBatch:
        """Build all but the edits."""
        lora = _runs(parts, lambda resident: resident.lora, self._lora)
        gains = _runs(parts, lambda resident: resident.gain, self._gain)
        sparse = _runs(parts, lambda resident: resident.sparse, self._sparse)
        workers = self._num_workers
        return AdapterBatch(
            lora=grouped_lora.make_batch(self._lora.tables, lora, workers) if lora else None,
            gain=gain.make_batch(self._gain.tables, gains, workers) if gains else None,
            sparse=sparse_delta.make_batch(self._sparse.tables, sparse, workers)
            if sparse
            else None,
        )

    def _edit_batch(self, parts: list[Part]) -> EditBatch | None:
        found = [
            (start + place, table, group)
            for part, start, residents in parts
            for resident, _ in residents
            if (table := resident.edit) is not None
            for place, group in _edited(part, table)
        ]
        if not found:
            return None
        slots = self._edits.slots([table for _, table, _ in found])
        edits = [(token, slot, group) for (token, _, group), slot in zip(found, slots, strict=True)]
        return hidden_edit.make_batch(self._edits.tables, edits)


def _edited(part: ScheduledChunk, table: EditTable) -> Iterator[tuple[int, int]]:
    """Yield (place in the part, group) of each token of the prompt that is edited.

    Positions are those of the prompt whatever its chunks; generated tokens are never edited, not
    even when they are computed again after a preemption.
    """
    prompt = part.sequence.num_prompt
    first, last = positions_to_edit(prompt, table.first_positions, table.last_positions)
    begin = part.sequence.num_computed
    for position in range(begin, min(begin + part.count, prompt)):
        if position < first:
            yield position - begin, FIRST
        elif position >= prompt - last:
            yield position - begin, LAST


def _runs(
    parts: list[Part], table_of: Callable[[Resident], Any], arena: TableArena[Any, Any]
) -> list[Run]:
    """The runs of tokens that meet the tables of one operation, by their slots in `arena`.

    The tokens of a request with several adapters are in as many runs, one after the other.
    """
    found = [
        [
            (table, weight)
            for resident, weight in residents
            if (table := table_of(resident)) is not None
        ]
        for _, _, residents in parts
    ]
    if not any(found):
        return []
    slots = iter(arena.slots([table for met in found for table, _ in met]))
    runs: list[Run] = []
    last: list[Run] = []
    for (part, start, _), met in zip(parts, found, strict=True):
        fresh = [Run(start, part.count, next(slots), weight) for _, weight in met]
        if _continue(fresh, last):
            fresh = [run._replace(size=run.size + part.count) for run in last]
            del runs[-len(last) :]
        runs += fresh
        last = fresh
    return runs


def _continue(fresh: list[Run], last: list[Run]) -> bool:
    """Whether both are runs with the same adapters and weights, over adjoining tokens."""
    if not fresh or [run[2:] for run in fresh] != [run[2:] for run in last]:
        return False
    return last[0].first + last[0].size == fresh[0].first


def _residents(part: ScheduledChunk, hot: AdapterEntry | None) -> list[tuple[Resident, float]]:
    """The adapters that the tokens of `part` meet, with weights.

    Weights with the hot adapter in them give each token that adapter once; what it should have of
    it instead is made up for: nothing at all, usually, or a share of its own.
    """
    adapter = part.sequence.adapter
    uses = adapter.uses if adapter is not None else ()
    if hot is None:
        return [(resident_of(entry), weight) for entry, weight in uses]
    others = [(resident_of(entry), weight) for entry, weight in uses if entry is not hot]
    left = sum(weight for entry, weight in uses if entry is hot) - 1.0
    return [*others, (resident_of(hot), left)] if left else others
