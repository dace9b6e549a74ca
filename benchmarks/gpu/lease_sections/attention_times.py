"""Paged attention at Llama-3-8B's shapes, beside torch's own on gathered keys and values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from gossamer.kernels.attention_work import arrays_of
from gossamer.kernels.paged_attention import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention
from lease_sections.frame import Found, Lease
from lease_sections.timing import copies_for, seconds_each

DECODES = ((64, 512), (64, 4096), (1, 32768))
"""Sequences, and places of each."""
PREFILL = 2048


def attention(lease: Lease) -> Found:
    """Decodes, then one chunk of a prefill, in microseconds and bytes per second."""
    found: Found = {}
    for sequences, places in ((3, 40), (1, 300)) if lease.dry else DECODES:
        found[f"decode {sequences} x {places}"] = _measured(lease, sequences, places, 1)
    tokens = 70 if lease.dry else PREFILL
    found[f"prefill {tokens}"] = _measured(lease, 1, tokens, tokens)
    return found


def _measured(lease: Lease, sequences: int, places: int, tokens: int) -> Found:
    """tokens: of each sequence, its last ones."""
    heads, kv_heads, width = (4, 2, 16) if lease.dry else (32, 8, 128)
    dtype = torch.float32 if lease.dry else torch.bfloat16
    layout = KvLayout(
        num_layers=1, num_kv_heads=kv_heads, head_dim=width, block_tokens=16, dtype=dtype
    )
    num_bytes = 2 * sequences * places * kv_heads * width * dtype.itemsize

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=lease.device).to(dtype)

    torch.manual_seed(0)
    batch = _batch(sequences, places, tokens)
    arrays = arrays_of(batch, lease.device)
    bodies: list[Callable[[], Any]] = []
    for _ in range(copies_for(num_bytes, lease)):
        pool = draw(int(batch.block_tables.max()) + 1, *layout.shape)
        operation = TritonPagedAttention(pool.view(torch.uint8).view(-1), layout)
        q = draw(sequences * tokens, heads, width)
        k, v = (draw(sequences * tokens, kv_heads, width) for _ in range(2))
        bodies.append(lambda op=operation, q=q, k=k, v=v: op(arrays, 0, q, k, v, width**-0.5))
    result = bodies[0]()
    seconds = seconds_each(bodies, lease)
    query = draw(sequences, heads, tokens, width)
    keys, values = (draw(sequences, kv_heads, places, width) for _ in range(2))
    torch_seconds = seconds_each(
        [
            lambda: scaled_dot_product_attention(
                query, keys, values, is_causal=tokens > 1, enable_gqa=True
            )
        ],
        lease,
    )
    return {
        "us": 1e6 * seconds, "gb_s": 1e-9 * num_bytes / seconds, "torch_us": 1e6 * torch_seconds,
        "finite": bool(torch.isfinite(result).all()) if lease.has_data else None,
    }  # fmt: skip


def _batch(sequences: int, places: int, tokens: int) -> AttentionBatch:
    """Sequences whose blocks lie anywhere."""
    blocks = -(-places // 16)
    order = np.random.default_rng(0).permutation(sequences * blocks)
    tables = order.reshape(sequences, blocks).astype(np.int32)
    sequence = np.repeat(np.arange(sequences, dtype=np.int32), tokens)
    positions = np.tile(np.arange(places - tokens, places, dtype=np.int32), sequences)
    is_short = tokens == 1
    return AttentionBatch(
        positions=positions,
        sequence_start=np.zeros(sequences, np.int32),
        token_sequence=sequence,
        token_block=tables[sequence, positions // 16],
        token_index=positions % 16,
        block_tables=tables,
        short_tokens=np.arange(sequences if is_short else 0, dtype=np.int32),
        short_bounds=np.zeros(1, np.int32),
        long_chunks=() if is_short else tuple((i * tokens, tokens, i) for i in range(sequences)),
    )


def says(found: Found) -> str:
    """One line."""
    return "; ".join(
        f"{name}: {of['us']:.0f} us, {of['gb_s']:.0f} GB/s (torch {of['torch_us']:.0f} us)"
        for name, of in found.items()
    )
