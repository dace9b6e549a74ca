"""The arrays of one step, built once and shared by all layers."""

from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.kernels.grouped_lora import AdapterTable, LoraBatch, make_batch, stack_tables
from gossamer.kernels.grouped_lora.batch import Tables, balance
from gossamer.kernels.paged_attention import AttentionBatch
from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.scheduler import Scheduled, adapters_of
from gossamer.serving.sequence import Sequence

LONG_CHUNK = 16
"""Prefill chunks of at least so many tokens take torch's fused attention, shorter ones our kernel
(measured: `benchmarks/kernels.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """T tokens of S sequences; tokens of a sequence, and of an adapter, lie side by side."""

    token_ids: Tensor  # [1, T] int64
    positions: Tensor  # [1, T] int64
    attention: AttentionBatch
    lora: LoraBatch | None
    """None: no token of the step has an adapter; the plain path."""
    sampled: list[Sequence]
    """Sequences whose next token is due after this step."""
    logit_rows: Tensor  # [len(sampled)] int64: their last tokens' places in the batch


class BatchBuilder:
    """Builds the batch of a step; keeps the adapter tables while the set of adapters stays."""

    def __init__(self, *, block_tokens: int, num_workers: int) -> None:
        self._block_tokens = block_tokens
        self._num_workers = num_workers
        self._stacked: tuple[tuple[AdapterTable, ...], Tables | None] = ((), None)

    def build(self, step: list[Scheduled]) -> StepBatch:
        """The arrays of `step`."""
        adapters = adapters_of(step)
        slots = {adapter: slot for slot, adapter in enumerate(adapters)}
        # Contiguous runs of an adapter: the kernels then work on slices, without gathering tokens.
        step = sorted(step, key=lambda p: slots[p.sequence.adapter] if p.sequence.adapter else -1)
        counts = [part.count for part in step]
        starts = np.cumsum([0, *counts])
        due = [i for i, part in enumerate(step) if part.count == part.sequence.num_to_compute]
        token_ids = [
            token
            for part in step
            for token in part.sequence.token_ids[
                part.sequence.num_computed : part.sequence.num_computed + part.count
            ]
        ]
        attention = self._attention(step, counts, starts)
        return StepBatch(
            token_ids=torch.tensor([token_ids], dtype=torch.int64),
            positions=torch.from_numpy(attention.positions.astype(np.int64))[None],
            attention=attention,
            lora=self._lora(step, adapters, slots, starts) if adapters else None,
            sampled=[step[i].sequence for i in due],
            logit_rows=torch.tensor([int(starts[i + 1]) - 1 for i in due], dtype=torch.int64),
        )

    def _attention(
        self,
        step: list[Scheduled],
        counts: list[int],
        starts: npt.NDArray[np.int64],
    ) -> AttentionBatch:
        first = np.array([part.sequence.num_computed for part in step], dtype=np.int32)
        sequence = np.repeat(np.arange(len(step), dtype=np.int32), counts)
        within = np.arange(starts[-1], dtype=np.int32) - starts[:-1].astype(np.int32)[sequence]
        positions = first[sequence] + within
        longest = max(len(part.sequence.blocks) for part in step)
        tables = np.zeros((len(step), longest), dtype=np.int32)
        for row, part in zip(tables, step, strict=True):
            row[: len(part.sequence.blocks)] = part.sequence.blocks
        is_long = np.array([count >= LONG_CHUNK for count in counts])
        short = np.nonzero(~is_long[sequence])[0].astype(np.int32)
        order, bounds = balance((positions[short] + 8).tolist(), self._num_workers)
        return AttentionBatch(
            positions=positions,
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

    def _lora(
        self,
        step: list[Scheduled],
        adapters: list[AdapterEntry],
        slots: dict[AdapterEntry, int],
        starts: npt.NDArray[np.int64],
    ) -> LoraBatch:
        runs: list[tuple[int, int, int]] = []
        for part, start in zip(step, starts.tolist(), strict=False):
            adapter = part.sequence.adapter
            if adapter is None:
                continue
            slot = slots[adapter]
            if runs and runs[-1][2] == slot:
                first, count, _ = runs[-1]
                runs[-1] = (first, count + part.count, slot)
            else:
                runs.append((start, part.count, slot))
        return make_batch(self._tables(adapters), runs, self._num_workers)

    def _tables(self, adapters: Several[AdapterEntry]) -> Tables:
        wanted = tuple(adapter.table for adapter in adapters)
        held, tables = self._stacked
        if (
            tables is None
            or len(held) != len(wanted)
            or any(a is not b for a, b in zip(held, wanted, strict=True))
        ):
            tables = stack_tables(wanted)
            self._stacked = (wanted, tables)
        return tables
