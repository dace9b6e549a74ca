"""Lowers steps for a processor: work is cut into chunks and shared out among threads."""

from dataclasses import dataclass
from operator import attrgetter
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
from gossamer.serving.runner.lowering.adapters import AdapterBatchBuilder, join_runs
from gossamer.serving.runner.lowering.parts import Part
from gossamer.serving.runner.lowering.step import HostStep, StepBatch, sampled

LONG_CHUNK = 16
"""Prefill chunks of at least this many tokens take torch's fused attention, others our kernel
(measured: `benchmarks/kernel_speed.py`)."""


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
        lora = _runs(parts, "lora", self._lora)
        split = _runs(parts, "split", self._split)
        gains = _runs(parts, "gain", self._gain)
        sparse = _runs(parts, "sparse", self._sparse)
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
        self._adapters = AdapterBatchBuilder(AdapterChunks(num_workers).make, torch.device("cpu"))

    def lower(self, step: HostStep) -> StepBatch:
        """See `Lowering.lower`."""
        adapters, edits, parts = self._adapters.build(step.chunks, step.starts[:-1], step.met)
        last = [step.starts[i + 1] - 1 for i in step.due]
        return StepBatch(
            token_ids=torch.from_numpy(np.array([step.token_ids], dtype=np.int64)),
            positions=torch.from_numpy(step.positions[None]),
            virtual=step.virtual,
            attention=self._attention(step),
            adapters=adapters,
            edits=edits,
            parts=None if parts is None else parts.at(last),
            sampled=sampled(step),
            logit_rows=torch.from_numpy(np.array(last, dtype=np.int64)),
            scored=step.scored,
            scored_rows=torch.tensor(step.scored_rows) if step.scored else None,
            merged=step.merged,
        )

    def _attention(self, step: HostStep) -> AttentionBatch:
        is_short = np.array(step.counts) < LONG_CHUNK
        short = np.flatnonzero(np.repeat(is_short, step.counts)).astype(np.int32)
        order, bounds = balance((step.places[short] + 8).tolist(), self._num_workers)
        column, index = np.divmod(step.places, self._block_tokens)
        return AttentionBatch(
            positions=step.places,
            sequence_start=step.sequence_start,
            token_sequence=step.token_sequence,
            token_block=step.block_tables[step.token_sequence, column],
            token_index=index,
            block_tables=step.block_tables,
            short_tokens=short[order],
            short_bounds=np.array(bounds, dtype=np.int32),
            long_chunks=tuple(
                (step.starts[i], count, i)
                for i, count in enumerate(step.counts)
                if count >= LONG_CHUNK
            ),
        )


def _runs(parts: list[Part], field: str, arena: TableArena[Any, Any]) -> list[Run]:
    """The runs of tokens that meet the tables in one field of `Resident`, by their slots in
    `arena`."""
    table_of = attrgetter(field)
    tables = [table_of(resident) for _, _, residents in parts for resident, _ in residents]
    present = [table for table in tables if table is not None]
    if not present:
        return []
    slots = iter(arena.slots(present))
    met: list[list[tuple[int, float]]] = []
    for _, _, residents in parts:
        met.append(own := [])
        for resident, weight in residents:
            if table_of(resident) is not None:
                own.append((next(slots), weight))
    return join_runs(parts, met)
