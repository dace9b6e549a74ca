"""Times of the processor kernels against plain torch, at the shapes of SmolLM2-135M.

    python benchmarks/kernel_speed.py

Each pair is timed in turn, repeatedly; the table shows the median of each and of their ratio.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common import describe_machine
from gossamer.kernels.dense_linear import DenseLinear
from gossamer.kernels.gated_activation import make_gated_activation
from gossamer.kernels.grouped_lora import (
    LoraTable,
    RowFormat,
    make_batch,
    make_grouped_lora,
    stack_tables,
)
from gossamer.kernels.paged_attention import AttentionBatch, KvLayout, make_paged_attention
from gossamer.kernels.runs import Run, balance

HIDDEN, WIDE, HEADS, KV_HEADS, HEAD_DIM = 576, 1536, 9, 3, 64
RANK = 16
Work = Callable[[], object]


def main() -> None:
    """Print the table."""
    print(describe_machine())
    print(f"{'':<52}{'ours':>10}{'torch':>10}{'ratio':>8}")
    with torch.inference_mode():
        for rows in (1, 8, 32, 128, 512):
            pair(f"dense product, {rows} rows of {HIDDEN} to {2 * WIDE}", *dense(rows))
        for rows in (1, 32, 512):
            pair(f"gated activation, {rows} rows", *gate(rows))
        for count, adapters in ((1, 32), (4, 32), (16, 32), (32, 16), (64, 8), (128, 4), (512, 1)):
            label = f"grouped LoRA, {adapters} adapters with {count} tokens each"
            pair(label, *lora(adapters, count))
        for context in (64, 256, 1024):
            pair(f"attention, 32 sequences at {context} tokens", *attention(32, context))


def pair(label: str, ours: Work, theirs: Work, rounds: int = 15) -> None:
    """Time both in turn and print a row."""
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    a, b = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    ratio = statistics.median(y / x for x, y in times)
    print(f"{label:<52}{a:>7.2f} ms{b:>7.2f} ms{ratio:>7.2f}x", flush=True)


def seconds(work: Work) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def dense(rows: int) -> tuple[Work, Work]:
    """Packed weights against plain ones."""
    layer = nn.Linear(HIDDEN, 2 * WIDE, bias=False)
    packed = DenseLinear([layer], "cpu")
    x = torch.randn(rows, HIDDEN)
    return lambda: packed(x), lambda: functional.linear(x, layer.weight)


def gate(rows: int) -> tuple[Work, Work]:
    """One pass against two."""
    x = torch.randn(rows, 2 * WIDE)
    gate, up = x.chunk(2, dim=-1)
    return lambda: make_gated_activation("cpu")(x), lambda: functional.silu(gate) * up


def lora(num_adapters: int, count: int) -> tuple[Work, Work]:
    """The gate/up pair: rows in the pool against `bmm` on factors that lie ready in one tensor."""
    row_bytes = RANK * (2 * HIDDEN + 2 * WIDE) * 4
    pool = torch.randn(num_adapters * row_bytes // 4).view(torch.uint8)
    widths = ([HIDDEN] * RANK + [WIDE] * RANK) * 2
    starts = np.cumsum([0, *widths[:-1]])
    tables = stack_tables(
        [
            LoraTable(
                first_row=np.array([0, 2 * RANK]),
                rank=np.full(2, RANK, dtype=np.int32),
                scale=np.ones(2, dtype=np.float32),
                offsets=starts + index * row_bytes // 4,
                row_scale=np.ones(len(starts), dtype=np.float32),
                format=RowFormat.FLOAT32,
            )
            for index in range(num_adapters)
        ]
    )
    runs = [Run(index * count, count, index) for index in range(num_adapters)]
    batch = make_batch(tables, runs, torch.get_num_threads())
    op = make_grouped_lora(pool, [0, 1], [WIDE, WIDE], "cpu")
    x = torch.randn(num_adapters * count, HIDDEN)
    y = torch.zeros(num_adapters * count, 2 * WIDE)
    factors_a = torch.randn(num_adapters, HIDDEN, 2 * RANK)
    factors_b = torch.randn(2, num_adapters, RANK, WIDE)
    grouped = x.view(num_adapters, count, HIDDEN)

    def with_bmm() -> None:
        v = torch.bmm(grouped, factors_a)
        for part in range(2):
            delta = torch.bmm(v[..., part * RANK : (part + 1) * RANK], factors_b[part])
            y[:, part * WIDE : (part + 1) * WIDE] += delta.view(-1, WIDE)

    return lambda: op.add_(y, x, batch), with_bmm


def attention(sequences: int, context: int) -> tuple[Work, Work]:
    """Decoding over scattered blocks against torch's fused attention over contiguous tensors."""
    layout = KvLayout(
        num_layers=1,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        block_tokens=16,
        dtype=torch.float32,
    )
    per_sequence = -(-context // 16)
    num_blocks = sequences * per_sequence
    pool = torch.randn(num_blocks * layout.block_bytes // 4).view(torch.uint8)
    blocks = np.random.default_rng(0).permutation(num_blocks).astype(np.int32)
    tables = blocks.reshape(sequences, per_sequence)
    order, bounds = balance([context] * sequences, torch.get_num_threads())
    batch = AttentionBatch(
        positions=np.full(sequences, context - 1, dtype=np.int32),
        sequence_start=np.zeros(sequences, dtype=np.int32),
        token_sequence=np.arange(sequences, dtype=np.int32),
        token_block=tables[:, -1].copy(),
        token_index=np.full(sequences, (context - 1) % 16, dtype=np.int32),
        block_tables=tables,
        short_tokens=np.array(order, dtype=np.int32),
        short_bounds=np.array(bounds, dtype=np.int32),
        long_chunks=(),
    )
    op = make_paged_attention(pool, layout, "cpu")
    query = torch.randn(sequences, HEADS, HEAD_DIM)
    key = torch.randn(sequences, KV_HEADS, HEAD_DIM)
    dense_key = torch.randn(sequences, KV_HEADS, context, HEAD_DIM)
    dense_value = torch.randn(sequences, KV_HEADS, context, HEAD_DIM)

    def fused() -> None:
        functional.scaled_dot_product_attention(
            query[:, :, None], dense_key, dense_value, enable_gqa=True
        )

    return lambda: op(batch, 0, query, key, key, HEAD_DIM**-0.5), fused


if __name__ == "__main__":
    main()
