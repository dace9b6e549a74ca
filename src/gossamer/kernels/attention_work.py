"""The step of an `AttentionBatch` as arrays on a device, and the pieces that programs compute.

All sizes are those of arrays: a CUDA graph that was captured over these arrays stays right when
other numbers are copied into them. Entries that a step does not use say so (-1, or no tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from gossamer.kernels.paged_attention.batch import AttentionBatch, SequencePages

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
    pages: SequencePages | None = None
    """The step for kernels that take sequences as a whole; no pieces of work are named then."""


UNUSED = {
    "token_block": -1, "decode_token": -1, "decode_split": 0, "split_token": -1, "split_place": 0,
    "chunk_first": 0, "chunk_count": 0,
}  # fmt: skip
"""What says that an entry is not used, of each array in which some may not be."""


def host_arrays(batch: AttentionBatch) -> dict[str, npt.NDArray[np.int32]]:
    """Return the fields of `AttentionArrays` as they are needed, nothing padded."""
    decode_split, split_token, split_place = _cut_decodes(batch)
    chunk_first, chunk_count = _cut_chunks(batch)
    arrays = {
        "positions": batch.positions,
        "token_sequence": batch.token_sequence,
        "token_block": batch.token_block,
        "token_index": batch.token_index,
        "sequence_start": batch.sequence_start,
        "block_tables": batch.block_tables,
        "decode_token": batch.short_tokens,
        "decode_split": decode_split,
        "split_token": split_token,
        "split_place": split_place,
        "chunk_first": chunk_first,
        "chunk_count": chunk_count,
    }
    return {
        name: np.ascontiguousarray(np.asarray(array, dtype=np.int32))
        for name, array in arrays.items()
    }


def arrays_of(
    batch: AttentionBatch, device: torch.device, *, decodes: int = 0, splits: int = 0,
    chunks: int = 0,
) -> AttentionArrays:  # fmt: skip
    """Arrays of a step on `device`, with places for at least that many pieces of each sort."""
    arrays = {
        name: torch.from_numpy(array).to(device) for name, array in host_arrays(batch).items()
    }
    places = {"decode": decodes, "split": splits, "chunk": chunks}

    def padded(name: str) -> Tensor:
        missing = places.get(name.split("_")[0], 0) - len(arrays[name])
        return (
            functional.pad(arrays[name], (0, missing), value=UNUSED[name])
            if missing > 0
            else arrays[name]
        )

    fields: dict[str, Any] = {
        name: padded(name) if name in UNUSED else arrays[name] for name in arrays
    }
    return AttentionArrays(**fields)


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
