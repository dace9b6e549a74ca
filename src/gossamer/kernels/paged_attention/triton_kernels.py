"""Paged attention on GPUs, in Triton.

A decode is cut into splits of the sequence, each computed by a program of its own for all query
heads that share a key/value head, and merged in order; a prefill chunk takes a program for up to
`QUERIES` tokens and a query head. Both read keys and values in tiles that begin at fixed places of
the sequence, so a token's result depends on its own place alone: tiles that it does not see change
nothing.
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

from typing import NamedTuple

import triton
import triton.language as tl

from gossamer.kernels.attention_work import QUERIES, SPLIT_TOKENS
from gossamer.kernels.triton_kernels import CompileCase, as_input, dot, rounded


class Launch(NamedTuple):
    """How attention is launched: tokens of a program and places of a tile of keys and values."""

    rows: int
    tile: int
    num_warps: int
    num_stages: int


# By the bytes of a query's element. No spills on sm_80, sm_90 and sm_120 with heads of 128: wider
# tiles spill in prefill. Float32 is multiplied without tensor cores, which takes more registers.
DECODE = {2: Launch(1, 64, 4, 3), 4: Launch(1, 32, 8, 1)}
PREFILL = {2: Launch(QUERIES, 32, 4, 2), 4: Launch(QUERIES // 2, 16, 4, 2)}
ALIGNED = frozenset(
    f"{name}_stride" for name in ("key_token", "key_head", "value_token", "value_head", "q_token")
) | {"q_head_stride", "block_stride", "layer_offset", "value_offset"}
"""What is a multiple of 16 for heads of a usual width."""
MERGED = 16
"""The number of splits that a merge reads at once."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def write_kv_kernel(
    key, key_token_stride, key_head_stride, value, value_token_stride, value_head_stride,
    pool, block_stride, layer_offset, value_offset, token_block, token_index,
    HEADS: tl.constexpr, HEADS_PADDED: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):  # fmt: skip
    """Store the keys and values of one token of all heads."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.load(token_block + token)
    if block < 0:
        return
    index = tl.load(token_index + token)
    head, d = tl.arange(0, HEADS_PADDED), tl.arange(0, D_PADDED)
    mask = (head < HEADS)[:, None] & (d < D)[None, :]
    key_at = key + token * key_token_stride + head[:, None] * key_head_stride + d[None, :]
    value_at = value + token * value_token_stride + head[:, None] * value_head_stride + d[None, :]
    keys = tl.load(key_at, mask=mask, other=0.0)
    values = tl.load(value_at, mask=mask, other=0.0)
    into = pool + block.to(tl.int64) * block_stride + layer_offset + index * D
    at = into + head[:, None] * (BLOCK_TOKENS * D) + d[None, :]
    tl.store(at, rounded(keys.to(tl.float32), pool), mask=mask)
    tl.store(at + value_offset, rounded(values.to(tl.float32), pool), mask=mask)


@triton.jit
def attend_tile(
    q, qs, pool, block_stride, offset, value_offset, table, place, is_place, seen, d, is_d, scale,
    best, total, acc, BLOCK_TOKENS: tl.constexpr, D: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Add one tile of keys and values to (largest score, sum of weights, weighted values).

    qs [M, D]; place [TILE], of which those of `is_place` are read and `seen` [M or 1, TILE] count.
    offset: of the layer and head within a block. Scores are in powers of two.
    """
    block = tl.load(table + place // BLOCK_TOKENS, mask=is_place, other=0).to(tl.int64)
    rows = pool + block * block_stride + offset + (place % BLOCK_TOKENS) * D
    rows = rows[:, None] + d[None, :]
    mask = is_place[:, None] & is_d[None, :]
    keys = as_input(tl.load(rows, mask=mask, other=0.0), q)
    scores = dot(qs, tl.trans(keys), tl.zeros((qs.shape[0], place.shape[0]), tl.float32))
    if SOFTCAP > 0:
        # c tanh(x / c), by way of the logistic function: tanh(x) = 2 / (1 + exp(-2 x)) - 1.
        shares = 2.0 * tl.sigmoid(scores * (scale * (2.0 / SOFTCAP))) - 1.0
        scores = tl.where(seen, shares * (SOFTCAP * LOG2_E), float("-inf"))
    else:
        scores = tl.where(seen, scores * (scale * LOG2_E), float("-inf"))
    new = tl.maximum(best, tl.max(scores, axis=1))
    # A token may have seen nothing yet: minus infinity may not be taken from itself.
    shift = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp2(scores - shift[:, None])
    keep = tl.exp2(best - shift)
    total = total * keep + tl.sum(weights, axis=1)
    values = as_input(tl.load(rows + value_offset, mask=mask, other=0.0), q)
    acc = dot(rounded(weights, q), values, acc * keep[:, None])
    return new, total, acc


@triton.jit
def first_place(sequence_start, sequence, position, WINDOW: tl.constexpr):
    """The first place that the token at `position` sees."""
    start = tl.load(sequence_start + sequence)
    if WINDOW > 0:
        start = tl.maximum(start, position + 1 - WINDOW)
    return start


@triton.jit
def with_sink(best, total, sinks, heads, is_head, HAS_SINKS: tl.constexpr):
    """Count the sinks of `heads` among (largest score, sum of weights).

    Returns them, and what weighted values that were made with the former are to be multiplied by.
    """
    if HAS_SINKS:
        sink = tl.load(sinks + heads, mask=is_head, other=0.0).to(tl.float32) * LOG2_E
        new = tl.maximum(best, sink)
        keep = tl.exp2(best - new)
        return new, total * keep + tl.exp2(sink - new), keep
    return best, total, total * 0.0 + 1.0


# As wide as the longest sequence of a step: another kernel for it would be compiled mid-service.
@triton.jit(do_not_specialize=["table_stride"])
def decode_kernel(
    q, q_token_stride, q_head_stride, pool, block_stride, layer_offset, value_offset,
    block_tables, table_stride, token_sequence, positions, sequence_start, split_token, split_place,
    part, part_max, part_sum, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr, D: tl.constexpr,
    D_PADDED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, TILE_: tl.constexpr,
    SPLIT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """One split of one token, for a key/value head and the query heads that share it."""
    head, item = tl.program_id(0), tl.program_id(1)
    token = tl.load(split_token + item)
    if token < 0:
        return
    position = tl.load(positions + token)
    sequence = tl.load(token_sequence + token)
    start = first_place(sequence_start, sequence, position, WINDOW)
    low = tl.load(split_place + item)
    high = tl.minimum(low + SPLIT, position + 1)
    low = tl.maximum(low, start // TILE_ * TILE_)
    if low >= high:  # all before the window; nor is it merged
        return
    g, d, n = tl.arange(0, GROUP_PADDED), tl.arange(0, D_PADDED), tl.arange(0, TILE_)
    is_g, is_d = g < GROUP, d < D
    is_out = is_g[:, None] & is_d[None, :]
    q_head = head * GROUP + g
    q_at = q + token.to(tl.int64) * q_token_stride + q_head[:, None] * q_head_stride + d[None, :]
    qs = tl.load(q_at, mask=is_out, other=0.0)
    table = block_tables + sequence.to(tl.int64) * table_stride
    offset = layer_offset + head * (BLOCK_TOKENS * D)
    best = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_PADDED,), tl.float32)
    acc = tl.zeros((GROUP_PADDED, D_PADDED), tl.float32)
    for at in range(low, high, TILE_):
        place = at + n
        is_place = (place >= start) & (place < high)
        best, total, acc = attend_tile(
            q, qs, pool, block_stride, offset, value_offset, table, place, is_place,
            is_place[None, :], d, is_d, scale, best, total, acc, BLOCK_TOKENS, D, SOFTCAP,
        )  # fmt: skip
    out = item.to(tl.int64) * (HEADS * GROUP) + q_head
    tl.store(part_max + out, best, mask=is_g)
    tl.store(part_sum + out, total, mask=is_g)
    tl.store(part + out[:, None] * D + d[None, :], acc, mask=is_out)


@triton.jit
def merge_kernel(
    part, part_max, part_sum, out, sinks, token_sequence, positions, sequence_start, decode_token,
    decode_split,
    QUERY_HEADS: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, SPLIT: tl.constexpr,
    MERGED_: tl.constexpr, WINDOW: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """The splits of one token and query head, in order; out [T, QUERY_HEADS, D]."""
    head, item = tl.program_id(0), tl.program_id(1)
    token = tl.load(decode_token + item)
    if token < 0:
        return
    position = tl.load(positions + token)
    sequence = tl.load(token_sequence + token)
    start = first_place(sequence_start, sequence, position, WINDOW)
    first = tl.load(decode_split + item)
    low, high = first + start // SPLIT, first + position // SPLIT + 1
    n, d = tl.arange(0, MERGED_), tl.arange(0, D_PADDED)
    is_d = d < D
    best = tl.full((MERGED_,), float("-inf"), tl.float32)
    for at in range(low, high, MERGED_):
        place = (at + n).to(tl.int64) * QUERY_HEADS + head
        scores = tl.load(part_max + place, mask=at + n < high, other=float("-inf"))
        best = tl.maximum(best, scores)
    top = tl.max(best, axis=0)
    total = tl.zeros((MERGED_,), tl.float32)
    acc = tl.zeros((D_PADDED,), tl.float32)
    for at in range(low, high, MERGED_):
        is_split = at + n < high
        place = (at + n).to(tl.int64) * QUERY_HEADS + head
        scores = tl.load(part_max + place, mask=is_split, other=float("-inf"))
        weights = tl.exp2(scores - top)
        total += weights * tl.load(part_sum + place, mask=is_split, other=0.0)
        values = tl.load(
            part + place[:, None] * D + d[None, :],
            mask=is_split[:, None] & is_d[None, :],
            other=0.0,
        )
        acc += tl.sum(weights[:, None] * values, axis=0)
    into = out + (token.to(tl.int64) * QUERY_HEADS + head) * D + d
    _, all_, keep = with_sink(top, tl.sum(total, axis=0), sinks, head, head >= 0, HAS_SINKS)
    tl.store(into, rounded(acc * keep / all_, out), mask=is_d)


@triton.jit(do_not_specialize=["table_stride"])
def prefill_kernel(
    q, q_token_stride, q_head_stride, out, sinks, pool, block_stride, layer_offset, value_offset,
    block_tables, table_stride, token_sequence, positions, sequence_start, chunk_first, chunk_count,
    scale,
    GROUP: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr, TILE_: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Up to ROWS neighbouring tokens of one sequence and one query head."""
    head, item, skipped = tl.program_id(0), tl.program_id(1), tl.program_id(2) * ROWS
    count = tl.minimum(tl.load(chunk_count + item) - skipped, ROWS)
    if count <= 0:
        return
    first = tl.load(chunk_first + item) + skipped
    position = tl.load(positions + first)
    sequence = tl.load(token_sequence + first)
    start = first_place(sequence_start, sequence, position, WINDOW)
    end = position + count
    i, d, n = tl.arange(0, ROWS), tl.arange(0, D_PADDED), tl.arange(0, TILE_)
    is_d = d < D
    is_out = (i < count)[:, None] & is_d[None, :]
    lowest = tl.maximum(start, position + i + 1 - WINDOW) if WINDOW > 0 else start + i * 0
    token = (first + i).to(tl.int64)[:, None]
    qs = tl.load(
        q + token * q_token_stride + head * q_head_stride + d[None, :], mask=is_out, other=0.0
    )
    table = block_tables + sequence.to(tl.int64) * table_stride
    offset = layer_offset + head // GROUP * (BLOCK_TOKENS * D)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D_PADDED), tl.float32)
    for at in range(start // TILE_ * TILE_, end, TILE_):
        place = at + n
        is_place = (place >= start) & (place < end)
        seen = (place[None, :] >= lowest[:, None]) & (place[None, :] <= (position + i)[:, None])
        best, total, acc = attend_tile(
            q, qs, pool, block_stride, offset, value_offset, table, place, is_place, seen, d, is_d,
            scale, best, total, acc, BLOCK_TOKENS, D, SOFTCAP,
        )  # fmt: skip
    into = out + (token * tl.num_programs(0) + head) * D + d[None, :]
    _, total, keep = with_sink(best, total, sinks, head + i * 0, i < count, HAS_SINKS)
    # Rows beyond the chunk may have seen nothing.
    total = tl.where(i < count, total, 1.0)
    tl.store(into, rounded(acc * keep[:, None] / total[:, None], out), mask=is_out)


def compile_cases() -> list[CompileCase]:
    """Launches for Llama-3-8B (32 query heads, 8 key/value heads of 128, blocks of 16 tokens)."""
    constants: dict[str, float] = {
        "HEADS": 8, "HEADS_PADDED": 8, "QUERY_HEADS": 32, "GROUP": 4, "GROUP_PADDED": 16, "D": 128,
        "D_PADDED": 128, "BLOCK_TOKENS": 16, "SPLIT": SPLIT_TOKENS,
        "MERGED_": MERGED,
    }  # fmt: skip
    plain = Launch(0, 0, 4, 2)
    cases = []
    for kind, size in (("bf16", 2), ("fp32", 4)):
        # Three programs on a multiprocessor hide a decode's latency: 65,536 registers / 3 / 128.
        for label, kernel, launch, window, registers, load in (
            ("write", write_kv_kernel, plain, 0, 32, "ld.16"),
            ("decode", decode_kernel, DECODE[size], 0, 168, "cp.async.16"),
            ("decode window", decode_kernel, DECODE[size], 4096, 168, "cp.async.16"),
            ("decode capped", decode_kernel, DECODE[size], 0, 168, "cp.async.16"),
            ("merge", merge_kernel, plain, 0, 64, "ld.16"),
            ("merge sinks", merge_kernel, plain, 0, 64, "ld.16"),
            ("prefill", prefill_kernel, PREFILL[size], 0, 255, "cp.async.16"),
            ("prefill window", prefill_kernel, PREFILL[size], 4096, 255, "cp.async.16"),
            ("prefill capped", prefill_kernel, PREFILL[size], 0, 255, "cp.async.16"),
            ("prefill sinks", prefill_kernel, PREFILL[size], 0, 255, "cp.async.16"),
        ):
            values = {**constants, "ROWS": launch.rows, "TILE_": launch.tile, "WINDOW": window}
            values |= {"SOFTCAP": 50.0 * ("capped" in label), "HAS_SINKS": "sinks" in label}
            values = {name: values[name] for name in kernel.arg_names if name in values}
            cases.append(
                CompileCase(
                    label=f"attention {label} {kind}", kernel=kernel, constants=values,
                    signature=_signature(kernel.arg_names, values, kind),
                    aligned=tuple(set(kernel.arg_names) & ALIGNED),
                    num_warps=launch.num_warps, num_stages=launch.num_stages,
                    most_registers=registers, most_shared=64 * 1024,
                    uses_tensor_cores=launch.tile > 0 and size == 2,
                    loads={"ld.16" if launch.num_stages == 1 else load: 2},
                )
            )  # fmt: skip
    return cases


def _signature(names: list[str], constants: dict[str, float], kind: str) -> dict[str, str]:
    """The types of a kernel's arguments over keys and values of `kind`."""
    known = dict.fromkeys(("q", "out", "sinks", "pool", "key", "value"), f"*{kind}")
    known |= dict.fromkeys(("part", "part_max", "part_sum"), "*fp32") | {"scale": "fp32"}
    ints = ("stride", "offset")
    return {
        name: known.get(name, "i32" if name.endswith(ints) else "*i32")
        for name in names
        if name not in constants
    }
