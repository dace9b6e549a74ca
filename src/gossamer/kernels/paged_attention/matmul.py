"""Paged attention for prefill chunks: gather the sequence once, then torch's fused attention.

Scores that are capped, and sinks, torch's fused attention does not know: those take plain products.
"""

import torch
from torch import Tensor
from torch.nn import functional

from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.reference import gather_sequence, shares


def attend_chunk(
    layout: KvLayout, pool: Tensor, batch: AttentionBatch, layer: int,
    chunk: tuple[int, int, int], query: Tensor, out: Tensor, scale: float, window: int,
    softcap: float = 0.0, sinks: Tensor | None = None,
) -> None:  # fmt: skip
    """Attention of one chunk (first token, tokens, sequence) of query [T, num_heads, head_dim]."""
    first, count, sequence = chunk
    end = int(batch.positions[first + count - 1]) + 1
    start = int(batch.sequence_start[sequence])
    key, value = gather_sequence(layout, pool, batch, layer, sequence, end)
    key, value = key[:, start:], value[:, start:]
    mask = _mask(count, end - start, window, query.dtype)
    if softcap or sinks is not None:
        group = query.shape[1] // layout.heads_of(layer)
        key, value = (each.repeat_interleave(group, dim=0).to(query.dtype) for each in (key, value))
        scores = scale * query[first : first + count].transpose(0, 1) @ key.transpose(1, 2)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        made = shares(scores + mask, 0.0, sinks) @ value
        out[first : first + count] = made.transpose(0, 1)
        return
    result = functional.scaled_dot_product_attention(
        query[first : first + count].transpose(0, 1)[None],
        key[None],
        value[None],
        attn_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != layout.heads_of(layer),
    )
    out[first : first + count] = result[0].transpose(0, 1)


def _mask(count: int, end: int, window: int, dtype: torch.dtype) -> Tensor:
    """[count, end]: 0 where a token of the chunk may look, else minus infinity."""
    query = torch.arange(end - count, end)[:, None]
    key = torch.arange(end)[None, :]
    seen = key <= query
    if window:
        seen &= key > query - window
    return torch.zeros(count, end, dtype=dtype).masked_fill_(~seen, float("-inf"))
