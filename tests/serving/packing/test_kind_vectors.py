"""Vectors of any widths in blocks: none straddles two, all are found where they were written."""

import random

import numpy as np
import pytest
import torch

from gossamer.serving.packing.vectors import join, pack_vectors

BLOCK_BYTES = 400


@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_is_what_is_read(seed):
    rng = random.Random(seed)
    rows = [torch.randn(rng.randint(1, 100)) for _ in range(rng.randint(1, 60))]
    vectors = pack_vectors(*join(rows), BLOCK_BYTES)
    blocks = np.random.default_rng(seed).permutation(vectors.num_blocks + 4).tolist()
    pool = torch.full((len(blocks) * BLOCK_BYTES // 4,), float("nan")).view(torch.uint8)
    offsets = vectors.write(pool, blocks[: vectors.num_blocks])
    floats = pool.view(torch.float32)
    for row, offset in zip(rows, offsets.tolist(), strict=True):
        assert torch.equal(floats[offset : offset + len(row)], row)
        assert offset // 100 == (offset + len(row) - 1) // 100
    weight = sum(len(row) for row in rows)
    assert vectors.num_bytes == 4 * weight
    assert int((~floats.isnan()).sum()) == weight


def test_blocks_are_filled():
    """A block ends with less than the next vector; nothing else is lost."""
    vectors = pack_vectors(torch.zeros(100 * 30), [30] * 100, BLOCK_BYTES)
    assert vectors.num_blocks == -(-100 // 3)
    assert pack_vectors(torch.zeros(300), [100, 100, 100], BLOCK_BYTES).num_blocks == 3
    assert pack_vectors(torch.zeros(0), [], BLOCK_BYTES).num_blocks == 0
    with pytest.raises(AssertionError, match="exceeds a block"):
        pack_vectors(torch.zeros(101), [101], BLOCK_BYTES)
