"""Tells which adapters the tokens of a step meet, whatever the backend that computes them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from gossamer.adapters.edit_positions import positions_to_edit
from gossamer.kernels import hidden_edit
from gossamer.kernels.hidden_edit import EditBatch, EditTable
from gossamer.kernels.hidden_edit.batch import FIRST, LAST
from gossamer.kernels.runs import Run
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.step import EntryView, StepView

Made = TypeVar("Made")

Part = tuple[StepView, int, list[tuple[Resident, float]]]
"""A sequence's part of the batch, its first token, and the adapters it meets with their weights."""


def resident_of(entry: EntryView) -> Resident:
    """Return what the loader has made of a resident adapter."""
    assert isinstance(entry.table, Resident), f"{entry.name} is not resident"
    return entry.table


class AdapterBatchBuilder(Generic[Made]):
    """Builds the adapters' part of a batch, or takes it over from the step before."""

    def __init__(self, make: Callable[[list[Part]], Made]) -> None:
        """`make` builds what the backend takes of all that adapters do to linear layers."""
        self._make = make
        self._edits = hidden_edit.table_arena()
        self._key: list[Any] | None = None
        self._kept: list[list[tuple[Resident, float]]] = []
        """What the key names by identity."""
        self._made: Made

    def build(
        self, step: Sequence[StepView], starts: Sequence[int], hot: EntryView | None = None
    ) -> tuple[Made, EditBatch | None]:
        """Build what `step` needs in the order of the batch, and its edits of hidden states.

        starts: each part's first token; hot: the adapter that the base weights of this step hold
        already.
        """
        parts = [
            (part, start, residents_of(part, hot)) for part, start in zip(step, starts, strict=True)
        ]
        # While the same sequences decode, only what is edited can differ from step to step.
        key = [
            (start, part.count, [(id(resident), weight) for resident, weight in residents])
            for part, start, residents in parts
        ]
        if key != self._key:
            self._key, self._kept = key, [residents for _, _, residents in parts]
            self._made = self._make(parts)
        if any(resident.edit is not None for residents in self._kept for resident, _ in residents):
            return self._made, self._edit_batch(parts)
        return self._made, None

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


def _edited(part: StepView, table: EditTable) -> Iterator[tuple[int, int]]:
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


def join_runs(parts: list[Part], met: list[list[tuple[int, float]]]) -> list[Run]:
    """The runs of `parts`, which meet (slot, weight) each.

    The tokens of a request with several adapters are in as many runs, one after the other.
    """
    runs: list[Run] = []
    last: list[Run] = []
    for (part, start, _), slots in zip(parts, met, strict=True):
        fresh = [Run(start, part.count, slot, weight) for slot, weight in slots]
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


def residents_of(part: StepView, hot: EntryView | None) -> list[tuple[Resident, float]]:
    """Return the adapters that the tokens of `part` meet, with weights.

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
