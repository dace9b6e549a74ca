"""Lowers steps for a processor: work is cut into chunks and shared out among threads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gossamer.kernels import gain, grouped_lora, sparse_delta, split_lora
from gossamer.kernels.arena import TableArena
from gossamer.kernels.gain import GainBatch
from gossamer.kernels.grouped_lora import LoraBatch
from gossamer.kernels.paged_attention import AttentionBatch
from gossamer.kernels.runs import Run, balance
from gossamer.kernels.sparse_delta import SparseBatch
from gossamer.kernels.split_lora import SplitBatch
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.adapters import AdapterBatchBuilder, Part, join_runs
from gossamer.serving.runner.lowering.step import HostStep, StepBatch, sampled

LONG_CHUNK = 16
"""Prefill chunks of at least this many tokens take torch's fused attention, others our kernel
(measured: `benchmarks/kernels.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterBatch:
    """What adapters do to linear layers; each field is None where no token of the step needs it."""

    lora: LoraBatch | None = None
    split: SplitBatch | None = None
    """In the place of `lora`, where ranks have divided both factors."""
    gain: GainBatch | None = None
    sparse: SparseBatch | None = None


class AdapterChunks:
    """Cuts the runs of each operation; keeps the tables of adapters that were used lately."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._lora = grouped_lora.table_arena()
        self._split = split_lora.table_arena()
        self._gain = gain.table_arena()
        self._sparse = sparse_delta.table_arena()

    def make(self, parts: list[Part]) -> AdapterBatch | None:
        """Return the batch, None if no adapter acts on any linear layer."""
        lora = _runs(parts, lambda resident: resident.lora, self._lora)
        split = _runs(parts, lambda resident: resident.split, self._split)
        gains = _runs(parts, lambda resident: resident.gain, self._gain)
        sparse = _runs(parts, lambda resident: resident.sparse, self._sparse)
        if not (lora or split or gains or sparse):
            return None
        workers = self._num_workers
        return AdapterBatch(
            lora=grouped_lora.make_batch(self._lora.tables, lora, workers) if lora else None,
            split=split_lora.make_batch(self._split.tables, split, workers) if split else None,
            gain=gain.make_batch(self._gain.tables, gains, workers) if gains else None,
            sparse=sparse_delta.make_batch(self._sparse.tables, sparse, workers)
            if sparse
            else None,
        )


class ThreadLowering:
    """See `Lowering`: NumPy arrays for `num_workers` threads."""

    def __init__(self, *, block_tokens: int, num_workers: int) -> None:
        self._block_tokens = block_tokens
        self._num_workers = num_workers
        self._adapters = AdapterBatchBuilder(AdapterChunks(num_workers).make)

    def lower(self, step: HostStep) -> StepBatch:
        """See `Lowering.lower`."""
        adapters, edits = self._adapters.build(step.chunks, step.starts[:-1], step.hot)
        last = [step.starts[i + 1] - 1 for i in step.due]
        return StepBatch(
            token_ids=torch.tensor([step.token_ids], dtype=torch.int64),
            positions=torch.from_numpy(step.positions)[None],
            virtual=step.virtual,
            attention=self._attention(step),
            adapters=adapters,
            edits=edits,
            sampled=sampled(step),
            logit_rows=torch.tensor(last, dtype=torch.int64),
            merged=step.merged,
        )

    def _attention(self, step: HostStep) -> AttentionBatch:
        is_long = np.array([count >= LONG_CHUNK for count in step.counts])
        short = np.nonzero(~is_long[step.token_sequence])[0].astype(np.int32)
        order, bounds = balance((step.places[short] + 8).tolist(), self._num_workers)
        return AttentionBatch(
            positions=step.places,
            sequence_start=step.sequence_start,
            token_sequence=step.token_sequence,
            token_block=step.block_tables[step.token_sequence, step.places // self._block_tokens],
            token_index=step.places % self._block_tokens,
            block_tables=step.block_tables,
            short_tokens=short[np.array(order, dtype=np.int64)],
            short_bounds=np.array(bounds, dtype=np.int32),
            long_chunks=tuple(
                (step.starts[i], step.counts[i], i) for i in np.nonzero(is_long)[0].tolist()
            ),
        )


def _runs(
    parts: list[Part], table_of: Callable[[Resident], Any], arena: TableArena[Any, Any]
) -> list[Run]:
    """The runs of tokens that meet the tables of one operation, by their slots in `arena`."""
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
    return join_runs(parts, [[(next(slots), weight) for _, weight in met] for met in found])
