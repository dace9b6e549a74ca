"""The arrays of one step, built once and shared by all layers."""

from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.kernels.dense_linear import DenseLinear
from gossamer.kernels.gain import GainBatch
from gossamer.kernels.grouped_lora import LoraBatch
from gossamer.kernels.hidden_edit import EditBatch
from gossamer.kernels.paged_attention import AttentionBatch
from gossamer.kernels.paged_attention.batch import IntArray
from gossamer.kernels.runs import balance
from gossamer.kernels.sparse_delta import SparseBatch
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.resident import PrefixTable
from gossamer.serving.runner.adapter_batch import AdapterBatch, AdapterBatchBuilder, resident_of
from gossamer.serving.scheduler.hot_merge import Merged
from gossamer.serving.scheduler.step import ScheduledChunk, adapters_of

LONG_CHUNK = 16
"""Prefill chunks of at least this many tokens take torch's fused attention, others our kernel
(measured: `benchmarks/kernels.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """A batch: T tokens of S sequences; those of a sequence, or an adapter, lie side by side."""

    token_ids: Tensor  # [1, T] int64
    positions: Tensor  # [1, T] int64, virtual tokens in front counted
    virtual: tuple[int, Tensor] | None = None
    """The first of the tokens that are given by embeddings [n, hidden], and these; their
    `token_ids` mean nothing."""
    attention: AttentionBatch
    has_adapters: bool
    """Whether adapters act on any linear layer; if not, the plain path is taken."""
    lora: LoraBatch | None
    gain: GainBatch | None
    sparse: SparseBatch | None
    edits: EditBatch | None
    sampled: list[Sequence]
    """Sequences whose next token is due after this step."""
    logit_rows: Tensor  # [len(sampled)] int64: their last tokens' places in the batch
    merged: Mapping[DenseLinear, DenseLinear] = field(default_factory=dict)
    """Layers that this step uses in the place of others: those with the hot adapter merged."""


class BatchBuilder:
    """Builds the batch of a step; keeps the adapter tables while the set of adapters stays."""

    def __init__(self, *, block_tokens: int, num_workers: int) -> None:
        self._block_tokens = block_tokens
        self._num_workers = num_workers
        self._adapters = AdapterBatchBuilder(num_workers)

    def build(self, step: list[ScheduledChunk], merged: Merged | None = None) -> StepBatch:
        """Build the arrays of `step`, to be run on the base weights or on the `merged` ones."""
        adapters = adapters_of(step)
        slots = {adapter: slot for slot, adapter in enumerate(adapters)}
        # Contiguous runs of an adapter: the kernels then work on slices, without gathering tokens.
        step = sorted(step, key=lambda p: slots[p.sequence.adapter] if p.sequence.adapter else -1)
        counts = [part.count for part in step]
        starts = np.cumsum([0, *counts])
        due = [
            i
            for i, part in enumerate(step)
            if part.count == part.sequence.num_to_compute and part.sequence.prefix_of is None
        ]
        token_ids = [
            token
            for part in step
            for token in part.sequence.token_ids[
                part.sequence.num_computed : part.sequence.num_computed + part.count
            ]
        ]
        positions, attention = self._attention(step, counts, starts)
        first = starts[:-1].tolist()
        hot = merged.entry if merged is not None else None
        doing = self._adapters.build(step, first, hot) if adapters or hot else AdapterBatch()
        return StepBatch(
            token_ids=torch.tensor([token_ids], dtype=torch.int64),
            positions=torch.from_numpy(positions)[None],
            virtual=_virtual(step, first),
            attention=attention,
            has_adapters=any(each is not None for each in (doing.lora, doing.gain, doing.sparse)),
            lora=doing.lora,
            gain=doing.gain,
            sparse=doing.sparse,
            edits=doing.edits,
            sampled=[step[i].sequence for i in due],
            logit_rows=torch.tensor([int(starts[i + 1]) - 1 for i in due], dtype=torch.int64),
            merged=merged.layers if merged is not None else {},
        )

    def _attention(
        self,
        step: list[ScheduledChunk],
        counts: list[int],
        starts: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], AttentionBatch]:
        """Build the tokens' positions [T] as the model counts them, and their places in blocks."""
        first = np.array([part.sequence.num_computed for part in step], dtype=np.int32)
        sequence = np.repeat(np.arange(len(step), dtype=np.int32), counts)
        within = np.arange(starts[-1], dtype=np.int32) - starts[:-1].astype(np.int32)[sequence]
        tables, own, start = _block_tables(step, self._block_tokens)
        positions = own[sequence] + first[sequence] + within
        is_long = np.array([count >= LONG_CHUNK for count in counts])
        short = np.nonzero(~is_long[sequence])[0].astype(np.int32)
        order, bounds = balance((positions[short] + 8).tolist(), self._num_workers)
        attention = AttentionBatch(
            positions=positions,
            sequence_start=start,
            token_sequence=sequence,
            token_block=tables[sequence, positions // self._block_tokens],
            token_index=positions % self._block_tokens,
            block_tables=tables,
            short_tokens=short[np.array(order, dtype=np.int64)],
            short_bounds=np.array(bounds, dtype=np.int32),
            long_chunks=tuple(
                (int(starts[i]), counts[i], i) for i in np.nonzero(is_long)[0].tolist()
            ),
        )
        return (positions - attention.sequence_start[sequence]).astype(np.int64), attention


def _block_tables(
    step: list[ScheduledChunk], block_tokens: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Blocks of each sequence [S, longest], those of a prefix first; the places in them [S] where
    its own tokens begin, and where all that it looks at does."""
    blocks: list[List[int]] = []
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
                own[number] = len(sequence.blocks) * block_tokens - len(sequence.token_ids)
                start[number] = own[number]
    tables = np.zeros((len(step), max(map(len, blocks))), dtype=np.int32)
    for row, found in zip(tables, blocks, strict=True):
        row[: len(found)] = found
    return tables, own, start


def _virtual(step: list[ScheduledChunk], first: list[int]) -> tuple[int, Tensor] | None:
    """The chunk of a prefix that is computed, if one is: its first token, and the embeddings."""
    for part, place in zip(step, first, strict=True):
        if (entry := part.sequence.prefix_of) is not None:
            begin = part.sequence.num_computed
            assert isinstance(entry.rows, HostAdapter)
            assert entry.rows.virtual_tokens is not None
            return place, entry.rows.virtual_tokens[begin : begin + part.count]
    return None


def _prefix_of(sequence: Sequence) -> PrefixTable | None:
    if sequence.adapter is None or len(sequence.adapter.parts) > 1:
        return None
    return resident_of(sequence.adapter.parts[0]).prefix
