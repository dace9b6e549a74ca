"""Tells which adapters the tokens of a step meet, whatever the backend that computes them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from gossamer.adapters.edit_positions import positions_to_edit
from gossamer.kernels import hidden_edit
from gossamer.kernels.hidden_edit import EditBatch, EditTable
from gossamer.kernels.hidden_edit.batch import FIRST, LAST
from gossamer.kernels.runs import Run
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.part_batch import PartBatch
from gossamer.serving.runner.lowering.parts import Part, make_parts
from gossamer.serving.runner.lowering.step import EntryView, Met, StepView, UsesView

Made = TypeVar("Made")


def resident_of(entry: EntryView) -> Resident:
    """Return what the loader has made of a resident adapter."""
    assert isinstance(entry.table, Resident), f"{entry.name} is not resident"
    return entry.table


class AdapterBatchBuilder(Generic[Made]):
    """Builds the adapters' part of a batch, or takes it over from the step before."""

    def __init__(self, make: Callable[[list[Part]], Made], device: torch.device) -> None:
        """`make` builds what the backend takes of all that adapters do to linear layers; trained
        parts are described by tensors on `device`."""
        self._make = make
        self._device = device
        self._parts: PartBatch | None = None
        self._edits = hidden_edit.table_arena()
        self._key: tuple[Any, ...] | None = None
        self._made: Made
        self._has_edits = False

    def build(
        self, step: Sequence[StepView], starts: Sequence[int], met: Sequence[Met]
    ) -> tuple[Made, EditBatch | None, PartBatch | None]:
        """Build what `step` needs in the order of the batch, its edits of hidden states, and its
        trained parts.

        starts: each part's first token; met: the adapters that its tokens meet.
        """
        # While the same sequences decode, only what is edited can differ from step to step.
        key = ([*starts], [part.count for part in step], [*met])
        if key != self._key:
            self._key = key
            self._made = self._make(list(zip(step, starts, met, strict=True)))
            self._parts = make_parts(list(zip(step, starts, met, strict=True)), self._device)
            self._has_edits = any(
                resident.edit is not None for residents in met for resident, _ in residents
            )
        if self._has_edits:
            edits = self._edit_batch(list(zip(step, starts, met, strict=True)))
            return self._made, edits, self._parts
        return self._made, None, self._parts

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
    before: list[tuple[int, float]] = []
    first = 0
    for (part, start, _), slots in zip(parts, met, strict=True):
        if slots and slots == before:
            # The tokens adjoin, since all of the step lie side by side.
            del runs[-len(slots) :]
        else:
            first = start
        size = start + part.count - first
        runs += [Run(first, size, slot, weight) for slot, weight in slots]
        before = slots
    return runs


def residents_of(adapter: UsesView | None, hot: EntryView | None) -> Met:
    """Return the adapters that tokens meet which are for `adapter`.

    Weights with the `hot` adapter in them give each token that adapter once; what it should have of
    it instead is made up for: nothing at all, usually, or a share of its own.
    """
    uses = adapter.uses if adapter is not None else ()
    if hot is None:
        return [(resident_of(entry), weight) for entry, weight in uses]
    others = [(resident_of(entry), weight) for entry, weight in uses if entry is not hot]
    left = sum(weight for entry, weight in uses if entry is hot) - 1.0
    return [*others, (resident_of(hot), left)] if left else others
