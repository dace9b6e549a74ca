"""Compile the processor kernels ahead of their first use: `python -m gossamer.kernels.compile`.

Numba compiles a kernel when it is first called and keeps the result on disk. Without this the first
start of a server on a machine takes half a minute longer.
"""

import numpy as np
import torch

from gossamer.kernels import gain, hidden_edit, sparse_delta, split_lora
from gossamer.kernels.gated_activation import make_gated_activation
from gossamer.kernels.grouped_lora import (
    LoraTable,
    RowFormat,
    make_batch,
    make_grouped_lora,
    stack_tables,
)
from gossamer.kernels.paged_attention import AttentionBatch, KvLayout, make_paged_attention
from gossamer.kernels.runs import Run
from gossamer.kernels.transpose import move_matrices


def compile_kernels(*, split: bool = False) -> None:
    """Call each kernel once, on tensors of no consequence.

    split: also those of low-rank adapters that ranks have divided fully.
    """
    pool = torch.zeros(256, dtype=torch.uint8)
    _lora(pool)
    _attention(pool)
    _gain(pool)
    _sparse(pool)
    _edit(pool)
    if split:
        _split(pool)
    make_gated_activation("cpu")(torch.zeros(1, 4))
    for dtype in (np.int16, np.int32):
        words = np.zeros(2, dtype=dtype)
        move_matrices(words, np.array([[0, 0, 2, 1]]), words.copy())


def _lora(pool: torch.Tensor) -> None:
    table = LoraTable(
        first_row=np.zeros(1, dtype=np.int64),
        rank=np.ones(1, dtype=np.int32),
        scale=np.ones(1, dtype=np.float32),
        offsets=np.zeros(2, dtype=np.int64),
        row_scale=np.ones(2, dtype=np.float32),
        format=RowFormat.FLOAT32,
    )
    batch = make_batch(stack_tables([table]), [Run(0, 1, 0)], num_workers=1)
    make_grouped_lora(pool, [0], [2], "cpu").add_(torch.zeros(1, 2), torch.zeros(1, 2), batch)


def _split(pool: torch.Tensor) -> None:
    table = split_lora.SplitTable(
        first_row=np.zeros(1, dtype=np.int64),
        own=np.ones(1, dtype=np.int32),
        rank=np.ones(1, dtype=np.int32),
        scale=np.ones(1, dtype=np.float32),
        offsets=np.zeros(2, dtype=np.int64),
        row_scale=np.ones(2, dtype=np.float32),
        format=RowFormat.FLOAT32,
    )
    batch = split_lora.make_batch(split_lora.stack_tables([table]), [Run(0, 1, 0)], num_workers=1)
    operation = split_lora.make_split_lora(pool, [0], [(0, 2)], "cpu")
    v = operation.shrink(torch.zeros(1, 2), batch)
    assert v is not None
    operation.expand_(torch.zeros(1, 2), v[None], batch)


def _attention(pool: torch.Tensor) -> None:
    layout = KvLayout(num_layers=1, num_kv_heads=1, head_dim=2, block_tokens=2, dtype=torch.float32)
    one = np.zeros(1, dtype=np.int32)
    batch = AttentionBatch(
        positions=one,
        sequence_start=one,
        token_sequence=one,
        token_block=one,
        token_index=one,
        block_tables=one[None].copy(),
        short_tokens=one,
        short_bounds=np.array([0, 1], dtype=np.int32),
        long_chunks=(),
    )
    states = torch.zeros(1, 1, 2)
    make_paged_attention(pool, layout, "cpu")(batch, 0, states, states, states, 1.0)


def _gain(pool: torch.Tensor) -> None:
    for is_input in (False, True):
        table = gain.GainTable(
            offsets=np.zeros(1, dtype=np.int64),
            scales_input=np.array([is_input]),
            keeps_bias=True,
        )
        batch = gain.make_batch(gain.stack_tables([table]), [Run(0, 1, 0)], num_workers=1)
        operation = gain.make_gain(pool, [0], [2], None, "cpu")
        operation.scale_outputs_(operation.scaled_inputs(torch.zeros(1, 2), batch), batch)


def _sparse(pool: torch.Tensor) -> None:
    one = np.zeros(1, dtype=np.int32)
    table = sparse_delta.SparseTable(
        first=one.astype(np.int64),
        count=np.ones(1, dtype=np.int64),
        row=one,
        column=one,
        length=one + 1,
        offset=one.astype(np.int64),
        half=False,
    )
    batch = sparse_delta.make_batch(sparse_delta.stack_tables([table]), [Run(0, 1, 0)], 1)
    operation = sparse_delta.make_sparse_delta(pool, [0], [2], "cpu")
    operation.add_(torch.zeros(1, 2), torch.zeros(1, 2), batch)


def _edit(pool: torch.Tensor) -> None:
    table = hidden_edit.EditTable(
        first_row=np.zeros((1, 2), dtype=np.int64),
        rank=np.ones((1, 2), dtype=np.int32),
        offsets=np.zeros(3, dtype=np.int64),
        first_positions=1,
        last_positions=0,
    )
    batch = hidden_edit.make_batch(hidden_edit.stack_tables([table]), [(0, 0, 0)])
    hidden_edit.make_hidden_edit(pool, "cpu").edit_(torch.zeros(1, 2), 0, batch)


if __name__ == "__main__":
    compile_kernels(split=True)
