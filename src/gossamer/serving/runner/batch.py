"""From the chunks of a step to its batch: the order of the tokens, their places and blocks."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from torch import Tensor

from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.runner.lowering.adapters import residents_of
from gossamer.serving.runner.lowering.block_tables import BlockTables
from gossamer.serving.runner.lowering.step import (
    EntryView,
    HostStep,
    IntArray,
    Lowering,
    MergedView,
    Met,
    StepBatch,
    StepView,
    UsesView,
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
        chunks, met = _by_adapter(step, merged.entry if merged is not None else None)
        counts = [part.count for part in chunks]
        starts = list(accumulate(counts, initial=0))
        sequence = np.repeat(np.arange(len(chunks), dtype=np.int32), counts)
        blocks, own, start = _blocks(chunks, met, self._block_tokens)
        # The place of each chunk's first token, less the number of tokens before it in the step.
        shift = own - np.array(starts[:-1], dtype=np.int32)
        shift += np.array([part.sequence.num_computed for part in chunks], dtype=np.int32)
        places = np.arange(starts[-1], dtype=np.int32) + shift[sequence]
        return HostStep(
            chunks=chunks,
            met=met,
            counts=counts,
            starts=starts,
            token_ids=[token for part in chunks for token in part.tokens],
            positions=(places - start[sequence]).astype(np.int64),
            places=places,
            token_sequence=sequence,
            sequence_start=start,
            block_tables=self._tables.array(blocks),
            virtual=_virtual(chunks, starts),
            due=[i for i, part in enumerate(chunks) if part.is_due],
            scored=[part for part in chunks if part.scored],
            scored_rows=[
                start + row
                for part, start in zip(chunks, starts, strict=False)
                for row in part.scored
            ],
            merged=merged.layers if merged is not None else {},
        )


def _by_adapter(
    step: Sequence[StepView], hot: EntryView | None
) -> tuple[list[StepView], list[Met]]:
    """The chunks of an adapter side by side, those without one first, and the adapters that the
    tokens of each meet.

    The kernels then work on slices, without gathering tokens.
    """
    groups: dict[UsesView | None, list[StepView]] = {None: []}
    for part in step:
        groups.setdefault(part.sequence.adapter, []).append(part)
    chunks: list[StepView] = []
    met: list[Met] = []
    for adapter, parts in groups.items():
        chunks += parts
        met += [residents_of(adapter, hot)] * len(parts)
    return chunks, met


def _blocks(
    step: Sequence[StepView], met: Sequence[Met], block_tokens: int
) -> tuple[list[list[int]], IntArray, IntArray]:
    """Blocks of each sequence [S], those of a prefix first; the places in them [S] where
    its own tokens begin, and where all that it looks at does."""
    blocks = [part.sequence.blocks for part in step]
    own = np.zeros(len(step), dtype=np.int32)
    start = np.zeros(len(step), dtype=np.int32)
    for number, (part, residents) in enumerate(zip(step, met, strict=True)):
        for resident, _ in residents:
            if (prefix := resident.prefix) is not None:
                # It fills the end of its blocks, so a sequence may begin within the first one.
                blocks[number] = [*prefix.blocks, *blocks[number]]
                own[number] = len(prefix.blocks) * block_tokens
                start[number] = own[number] - prefix.num_tokens
        if (entry := part.sequence.prefix_of) is not None:
            own[number] = len(blocks[number]) * block_tokens - len(_virtual_tokens(entry))
            start[number] = own[number]
    return blocks, own, start


def _virtual(step: Sequence[StepView], starts: list[int]) -> tuple[int, Tensor] | None:
    """The chunk of a prefix that is computed, if one is: its first token, and the embeddings."""
    for part, place in zip(step, starts, strict=False):
        if (entry := part.sequence.prefix_of) is not None:
            begin = part.sequence.num_computed
            return place, _virtual_tokens(entry)[begin : begin + part.count]
    return None


def _virtual_tokens(entry: EntryView) -> Tensor:
    """The embeddings [n, hidden] that the base model computes for a prefix."""
    assert isinstance(entry.rows, HostAdapter)
    assert entry.rows.virtual_tokens is not None
    return entry.rows.virtual_tokens
