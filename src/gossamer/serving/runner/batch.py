"""From the chunks of a step to its batch: the order of the tokens, their places and blocks."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.resident import PrefixTable
from gossamer.serving.runner.lowering.adapters import resident_of
from gossamer.serving.runner.lowering.block_tables import BlockTables
from gossamer.serving.runner.lowering.step import (
    EntryView,
    HostStep,
    IntArray,
    Lowering,
    MergedView,
    SequenceView,
    StepBatch,
    StepView,
)


class BatchBuilder:
    """Builds the batch of a step."""

    def __init__(self, *, block_tokens: int, lowering: Lowering) -> None:
        self._block_tokens = block_tokens
        self._lowering = lowering
        self._tables = BlockTables()

    def build(self, step: Sequence[StepView], merged: MergedView | None = None) -> StepBatch:
        """Build the arrays of `step`, to be run on the base weights or on the `merged` ones."""
        return self._lowering.lower(self.describe(step, merged))

    def describe(self, step: Sequence[StepView], merged: MergedView | None = None) -> HostStep:
        """Lay `step` out: tokens of an adapter side by side."""
        found = dict.fromkeys(p.sequence.adapter for p in step if p.sequence.adapter is not None)
        slots = {adapter: slot for slot, adapter in enumerate(found)}
        # Contiguous runs of an adapter: the kernels then work on slices, without gathering tokens.
        step = sorted(step, key=lambda p: slots[p.sequence.adapter] if p.sequence.adapter else -1)
        counts = [part.count for part in step]
        starts = np.cumsum([0, *counts])
        first = np.array([part.sequence.num_computed for part in step], dtype=np.int32)
        sequence = np.repeat(np.arange(len(step), dtype=np.int32), counts)
        within = np.arange(starts[-1], dtype=np.int32) - starts[:-1].astype(np.int32)[sequence]
        blocks, own, start = _blocks(step, self._block_tokens)
        places = own[sequence] + first[sequence] + within
        return HostStep(
            chunks=step,
            counts=counts,
            starts=starts.tolist(),
            token_ids=[token for part in step for token in part.tokens],
            positions=(places - start[sequence]).astype(np.int64),
            places=places,
            token_sequence=sequence,
            sequence_start=start,
            block_tables=self._tables.array(blocks),
            virtual=_virtual(step, starts[:-1].tolist()),
            due=[i for i, part in enumerate(step) if part.is_due],
            hot=merged.entry if merged is not None else None,
            merged=merged.layers if merged is not None else {},
        )


def _blocks(
    step: Sequence[StepView], block_tokens: int
) -> tuple[list[list[int]], IntArray, IntArray]:
    """Blocks of each sequence [S], those of a prefix first; the places in them [S] where
    its own tokens begin, and where all that it looks at does."""
    blocks: list[list[int]] = []
    own = np.zeros(len(step), dtype=np.int32)
    start = np.zeros(len(step), dtype=np.int32)
    for number, part in enumerate(step):
        sequence = part.sequence
        if (prefix := _prefix_of(sequence)) is not None:
            # It fills the end of its blocks, so a sequence may begin within the first one.
            blocks.append([*prefix.blocks, *sequence.blocks])
            own[number] = len(prefix.blocks) * block_tokens
            start[number] = own[number] - prefix.num_tokens
        else:
            blocks.append(sequence.blocks)
            if sequence.prefix_of is not None:
                own[number] = len(sequence.blocks) * block_tokens
                own[number] -= len(_virtual_tokens(sequence.prefix_of))
                start[number] = own[number]
    return blocks, own, start


def _virtual(step: Sequence[StepView], first: list[int]) -> tuple[int, Tensor] | None:
    """The chunk of a prefix that is computed, if one is: its first token, and the embeddings."""
    for part, place in zip(step, first, strict=True):
        if (entry := part.sequence.prefix_of) is not None:
            begin = part.sequence.num_computed
            return place, _virtual_tokens(entry)[begin : begin + part.count]
    return None


def _virtual_tokens(entry: EntryView) -> Tensor:
    """The embeddings [n, hidden] that the base model computes for a prefix."""
    assert isinstance(entry.rows, HostAdapter)
    assert entry.rows.virtual_tokens is not None
    return entry.rows.virtual_tokens


def _prefix_of(sequence: SequenceView) -> PrefixTable | None:
    if sequence.adapter is None or len(sequence.adapter.parts) != 1:
        return None
    return resident_of(sequence.adapter.parts[0]).prefix
