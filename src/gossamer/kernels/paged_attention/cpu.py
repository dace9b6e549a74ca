"""Paged attention on processors, in Numba.

A unit of work is one token and one key/value head; all query heads that share the head are computed
together, so that keys and values are read once. The order of every sum depends on the token's
position alone: its result does not change with its neighbours in the batch.
"""

import numpy as np
from numba import njit, prange

from gossamer.kernels.cpu import FAST, add_scaled, dot, fast_exp

float32 = np.float32


@njit(cache=True, nogil=True, fastmath=FAST)
def write_kv(pool, key, value, token_block, token_index, layer, block_tokens, head_dim):
    """Store keys and values `[T, num_kv_heads * head_dim]` of `layer` into their blocks.

    pool: [num_blocks, block_elements]; a block holds
    [num_layers, 2, num_kv_heads, block_tokens, head_dim].
    """
    num_kv_heads = key.shape[1] // head_dim
    v_offset = num_kv_heads * block_tokens * head_dim
    for t in range(key.shape[0]):
        block = pool[token_block[t]]
        base = (layer * 2 * num_kv_heads * block_tokens + token_index[t]) * head_dim
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
def _attend_head(pool, blocks, q, out, start, end, k_base, v_base, block_tokens, scores, scale):
    """One key/value head: q, out [group, head_dim]; scores [group, end - start] is scratch."""
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
        inverse = np.float32(1.0) / _exp_sum(weights, weights.max())
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
    layer, num_kv_heads, block_tokens, scale, window,
):  # fmt: skip
    """Causal attention of `tokens` over the blocks of their sequences.

    query, out: [T, num_heads, head_dim]. Worker w computes tokens[bounds[w] : bounds[w + 1]].
    window: how many positions back a token sees, itself included; 0: all.
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
                k_base = (layer * 2 * num_kv_heads + head) * block_tokens * head_dim
                v_base = k_base + num_kv_heads * block_tokens * head_dim
                heads = slice(head * group, (head + 1) * group)
                _attend_head(
                    pool, blocks, query[t, heads], out[t, heads], start, end, k_base, v_base,
                    block_tokens, scores, scale,
                )  # fmt: skip
