"""Builds the arrays of each operation from the adapters of a step and the tokens they meet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gossamer.adapters.edit_positions import positions_to_edit
from gossamer.kernels import gain, grouped_lora, hidden_edit, sparse_delta
from gossamer.kernels.gain import GainBatch
from gossamer.kernels.grouped_lora import LoraBatch
from gossamer.kernels.hidden_edit import EditBatch, EditTable
from gossamer.kernels.hidden_edit.batch import FIRST, LAST
from gossamer.kernels.runs import Run, Stack
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
    """Builds the adapters' part of a batch; keeps stacked tables while the adapters stay."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._lora = Stack(grouped_lora.stack_tables)
        self._gain = Stack(gain.stack_tables)
        self._sparse = Stack(sparse_delta.stack_tables)
        self._edits = Stack(hidden_edit.stack_tables)

    def build(
        self, step: Sequence[ScheduledChunk], starts: Sequence[int], hot: AdapterEntry | None = None
    ) -> AdapterBatch:
        """Build the arrays of `step` in the order of the batch; starts: each part's first token.

        hot: the adapter that the base weights of this step hold already.
        """
        parts = [
            (part, start, _residents(part, hot)) for part, start in zip(step, starts, strict=True)
        ]
        lora, lora_runs = _runs(parts, lambda resident: resident.lora)
        gains, gain_runs = _runs(parts, lambda resident: resident.gain)
        sparse, sparse_runs = _runs(parts, lambda resident: resident.sparse)
        workers = self._num_workers
        return AdapterBatch(
            lora=grouped_lora.make_batch(self._lora(lora), lora_runs, workers) if lora else None,
            gain=gain.make_batch(self._gain(gains), gain_runs, workers) if gains else None,
            sparse=sparse_delta.make_batch(self._sparse(sparse), sparse_runs, workers)
            if sparse
            else None,
            edits=self._edit_batch(parts),
        )

    def _edit_batch(self, parts: list[Part]) -> EditBatch | None:
        tables: dict[int, EditTable] = {}
        slots: dict[int, int] = {}
        edits = []
        for part, start, residents in parts:
            for resident, _ in residents:
                if (table := resident.edit) is None:
                    continue
                for place, group in _edited(part, table):
                    slot = slots.setdefault(id(table), len(slots))
                    tables[slot] = table
                    edits.append((start + place, slot, group))
        if not edits:
            return None
        return hidden_edit.make_batch(self._edits(list(tables.values())), edits)


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


def _runs(parts: list[Part], table_of: Callable[[Resident], Any]) -> tuple[list[Any], list[Run]]:
    """The tables of one operation, and the runs of tokens that meet them.

    The tokens of a request with several adapters are in as many runs, one after the other.
    """
    tables: dict[int, Any] = {}
    slots: dict[int, int] = {}
    runs: list[Run] = []
    last: list[Run] = []
    for part, start, residents in parts:
        fresh: list[Run] = []
        for resident, weight in residents:
            if (table := table_of(resident)) is not None:
                slot = slots.setdefault(id(table), len(slots))
                tables[slot] = table
                fresh.append(Run(start, part.count, slot, weight))
        if _continue(fresh, last):
            fresh = [run._replace(size=run.size + part.count) for run in last]
            del runs[-len(last) :]
        runs += fresh
        last = fresh
    return list(tables.values()), runs


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
