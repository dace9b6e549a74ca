"""The step of an `AttentionBatch` as arrays on a device, and the pieces that programs compute.

All sizes are those of arrays: a CUDA graph that was captured over these arrays stays right when
other numbers are copied into them. Entries that a step does not use say so (-1, or no tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.kernels.paged_attention.batch import AttentionBatch

SPLIT_TOKENS = 256
"""The number of places of a sequence that one program of a decode reads.

Sequences are cut at multiples of it, whatever the batch, so that the order of a token's sums
depends on its own place alone.
"""

QUERIES = 64
"""The most tokens of a prefill chunk that one program computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionArrays:
    """The T tokens, S sequences and pieces of work of a step; int32 tensors on one device."""

    positions: Tensor
    """Shape [T]: place in the sequence's blocks, counted from their beginning."""
    token_sequence: Tensor
    """Shape [T]: index of the token's sequence."""
    token_block: Tensor
    """Shape [T]: block that takes the token's keys and values; -1: they are not stored."""
    token_index: Tensor
    """Shape [T]: place within that block."""
    sequence_start: Tensor
    """Shape [S]: first place that is part of the sequence."""
    block_tables: Tensor
    """Shape [S, longest]: blocks of each sequence, in order."""
    decode_token: Tensor
    """Shape [D]: tokens that are computed alone; -1: none."""
    decode_split: Tensor
    """Shape [D]: index of each such token's first split; its splits follow each other."""
    split_token: Tensor
    """Shape [W]: the token of each split; -1: none."""
    split_place: Tensor
    """Shape [W]: the first place of each split, a multiple of `SPLIT_TOKENS`."""
    chunk_first: Tensor
    """Shape [C]: first token of each piece of a prefill chunk."""
    chunk_count: Tensor
    """Shape [C]: its tokens, at most `QUERIES`; 0: none."""


def arrays_of(
    batch: AttentionBatch, device: torch.device, *, decodes: int = 0, splits: int = 0,
    chunks: int = 0,
) -> AttentionArrays:  # fmt: skip
    """Arrays of a step on `device`, with places for at least that many pieces of each sort."""
    decode_split, split_token, split_place = _cut_decodes(batch)
    chunk_first, chunk_count = _cut_chunks(batch)

    def on_device(values: npt.ArrayLike, places: int = 0, unused: int = -1) -> Tensor:
        array = np.asarray(values, dtype=np.int32)
        if len(array) < places:
            array = np.append(array, np.full(places - len(array), unused, dtype=np.int32))
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return AttentionArrays(
        positions=on_device(batch.positions),
        token_sequence=on_device(batch.token_sequence),
        token_block=on_device(batch.token_block),
        token_index=on_device(batch.token_index),
        sequence_start=on_device(batch.sequence_start),
        block_tables=on_device(batch.block_tables),
        decode_token=on_device(batch.short_tokens, decodes),
        decode_split=on_device(decode_split, decodes),
        split_token=on_device(split_token, splits),
        split_place=on_device(split_place, splits),
        chunk_first=on_device(chunk_first, chunks, 0),
        chunk_count=on_device(chunk_count, chunks, 0),
    )


def _cut_decodes(batch: AttentionBatch) -> Sequence[npt.NDArray[np.int64]]:
    """Each short token's first split; then token and first place of all splits."""
    tokens = batch.short_tokens.astype(np.int64)
    counts = batch.positions[tokens].astype(np.int64) // SPLIT_TOKENS + 1
    first = np.cumsum(counts) - counts
    place = (np.arange(counts.sum()) - np.repeat(first, counts)) * SPLIT_TOKENS
    return first, np.repeat(tokens, counts), place


def _cut_chunks(batch: AttentionBatch) -> tuple[list[int], list[int]]:
    """First tokens and sizes of the pieces; those that look back furthest begin first."""
    pieces = [
        (low, min(QUERIES, first + count - low))
        for first, count, _ in batch.long_chunks
        for low in range(first, first + count, QUERIES)
    ]
    pieces.sort(key=lambda piece: -int(batch.positions[piece[0]]))
    return [first for first, _ in pieces], [count for _, count in pieces]
