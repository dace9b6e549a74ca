"""Paged attention on processors, in Numba.

A unit of work is one token and one key/value head; all query heads that share the head are computed
together, so that keys and values are read once. The order of every sum depends on the token's
position alone: its result does not change with its neighbours in the batch.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import FAST, add_scaled, dot, fast_exp
from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.matmul import attend_chunk

_NO_SINKS = np.zeros(0, dtype=np.float32)


@njit(cache=True, nogil=True, fastmath=FAST)
def write_kv(pool, key, value, token_block, token_index, heads_before, block_tokens, head_dim):
    """Store keys and values `[T, num_kv_heads * head_dim]` of a layer into their blocks.

    pool: [num_blocks, block_elements]; a block holds of each layer
    [2, num_kv_heads, block_tokens, head_dim]. heads_before: those of the layers before this one.
    """
    num_kv_heads = key.shape[1] // head_dim
    v_offset = num_kv_heads * block_tokens * head_dim
    for t in range(key.shape[0]):
        block = pool[token_block[t]]
        base = (2 * heads_before * block_tokens + token_index[t]) * head_dim
        for head in range(num_kv_heads):
            low = base + head * block_tokens * head_dim
            column = head * head_dim
            block[low : low + head_dim] = key[t, column : column + head_dim]
            low += v_offset
            block[low : low + head_dim] = value[t, column : column + head_dim]


@njit(cache=True, nogil=True, fastmath=FAST)
def _exp_sum(scores, shift):
    """scores = exp(scores - shift) for scores <= shift, in place; returns the sum."""
    total = np.float32(0.0)
    for i in range(scores.shape[0]):
        weight = fast_exp(scores[i] - shift)
        scores[i] = weight
        total += weight
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _attend_head(
    pool, blocks, q, out, start, end, k_base, v_base, block_tokens, scores, scale, softcap, sinks,
):  # fmt: skip
    """One key/value head: q, out [group, head_dim]; scores [group, end - start] is scratch.

    sinks: [group], or [0] where there are none.
    """
    group, head_dim = q.shape
    first = start // block_tokens
    last = (end - 1) // block_tokens
    for index in range(first, last + 1):
        block = pool[blocks[index]]
        origin = index * block_tokens
        for i in range(max(start, origin), min(end, origin + block_tokens)):
            low = k_base + (i - origin) * head_dim
            row = block[low : low + head_dim]
            for g in range(group):
                scores[g, i - start] = dot(q[g], row) * scale
    for g in range(group):
        weights = scores[g, : end - start]
        if softcap > 0:
            for i in range(end - start):
                weights[i] = softcap * np.tanh(weights[i] / softcap)
        highest = weights.max()
        if sinks.shape[0]:
            highest = max(highest, sinks[g])
        total = _exp_sum(weights, highest)
        if sinks.shape[0]:
            total += fast_exp(sinks[g] - highest)
        inverse = np.float32(1.0) / total
        for i in range(end - start):
            weights[i] *= inverse
        out[g, :] = np.float32(0.0)
    for index in range(first, last + 1):
        block = pool[blocks[index]]
        origin = index * block_tokens
        for i in range(max(start, origin), min(end, origin + block_tokens)):
            low = v_base + (i - origin) * head_dim
            row = block[low : low + head_dim]
            for g in range(group):
                add_scaled(out[g], scores[g, i - start], row)


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def attend(
    pool, query, out, tokens, bounds, token_sequence, positions, sequence_start, block_tables,
    heads_before, num_kv_heads, block_tokens, scale, window, softcap, sinks,
):  # fmt: skip
    """Causal attention of `tokens` over the blocks of their sequences; layers as in `write_kv`.

    query, out: [T, num_heads, head_dim]. Worker w computes tokens[bounds[w] : bounds[w + 1]].
    window: how many positions back a token sees, itself included; 0: all. sinks: [num_heads],
    or [0].
    """
    head_dim = query.shape[2]
    group = query.shape[1] // num_kv_heads
    longest = 0
    for item in range(tokens.shape[0]):
        longest = max(longest, positions[tokens[item]] + 1)
    for worker in prange(bounds.shape[0] - 1):
        scores = np.empty((group, longest), dtype=np.float32)
        for item in range(bounds[worker], bounds[worker + 1]):
            t = tokens[item]
            blocks = block_tables[token_sequence[t]]
            end = positions[t] + 1
            start = sequence_start[token_sequence[t]]
            if window > 0:
                start = max(start, end - window)
            for head in range(num_kv_heads):
                k_base = (2 * heads_before + head) * block_tokens * head_dim
                v_base = k_base + num_kv_heads * block_tokens * head_dim
                heads = slice(head * group, (head + 1) * group)
                _attend_head(
                    pool, blocks, query[t, heads], out[t, heads], start, end, k_base, v_base,
                    block_tokens, scores, scale, softcap,
                    sinks[heads] if sinks.shape[0] else sinks,
                )  # fmt: skip


class CpuPagedAttention:
    """See `PagedAttention`; float32. Long chunks take torch's fused attention."""

    def __init__(self, pool: Tensor, layout: KvLayout) -> None:
        self._pool = pool
        self._layout = layout
        self._blocks = pool.view(layout.dtype).view(-1, layout.block_bytes // 4).numpy()

    def plan(self, batch: AttentionBatch) -> None:
        """See `PagedAttention.plan`: nothing."""

    def __call__(
        self, batch: AttentionBatch, layer: int, query: Tensor, key: Tensor, value: Tensor,
        scale: float, window: int = 0, softcap: float = 0.0, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `PagedAttention.__call__`."""
        layout, before = self._layout, self._layout.heads_before(layer)
        write_kv(
            self._blocks, _rows(key), _rows(value), batch.token_block, batch.token_index, before,
            layout.block_tokens, layout.head_dim,
        )  # fmt: skip
        query = query.contiguous()
        out = torch.empty_like(query)
        if len(batch.short_tokens):
            attend(
                self._blocks, query.numpy(), out.numpy(), batch.short_tokens, batch.short_bounds,
                batch.token_sequence, batch.positions, batch.sequence_start, batch.block_tables,
                before, layout.heads_of(layer), layout.block_tokens, np.float32(scale), window,
                np.float32(softcap), _NO_SINKS if sinks is None else sinks.detach().numpy(),
            )  # fmt: skip
        for chunk in batch.long_chunks:
            attend_chunk(
                layout, self._pool, batch, layer, chunk, query, out, scale, window, softcap, sinks
            )
        return out


def _rows(states: Tensor) -> npt.NDArray[Any]:
    """[T, heads, head_dim] as a NumPy array [T, heads * head_dim]."""
    # Contiguous always: for another layout Numba would compile the kernel again, mid-service.
    return states.reshape(states.shape[0], -1).contiguous().numpy()
