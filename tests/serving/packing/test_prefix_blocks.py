"""Given keys and values in blocks: the last virtual token is the last of the last block."""

import pytest
import torch

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.packing.packer import Packer

BASE = BaseShape(linears={}, num_layers=3, hidden_size=8, num_kv_heads=2, head_dim=4)
BLOCK_TOKENS = 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 4, 5, 6, 13])
@pytest.mark.parametrize("device_tables", [False, True])
def test_every_token_is_where_attention_looks_for_it(count, dtype, device_tables):
    layout = KvLayout(
        num_layers=3, num_kv_heads=2, head_dim=4, block_tokens=BLOCK_TOKENS, dtype=dtype
    )
    given = torch.randn(count, 3, 2, 2, 4, generator=torch.Generator().manual_seed(count))
    adapter = PrefixAdapter("a", "digest", embeddings=None, keys_values=given)
    packed = Packer(BASE, {}, {}, layout, device_tables=device_tables).pack(adapter)
    assert packed.num_blocks == -(-count // BLOCK_TOKENS)
    assert packed.num_bytes == count * layout.block_bytes // BLOCK_TOKENS
    assert packed.virtual_tokens is None
    pool = torch.full((6 * layout.block_bytes,), 255, dtype=torch.uint8)
    blocks = [4, 0, 2][: packed.num_blocks]
    resident = packed.place(pool, blocks)
    assert resident.prefix.blocks == tuple(blocks)
    assert resident.prefix.num_tokens == count
    view = layout.view(pool)
    spare = packed.num_blocks * BLOCK_TOKENS - count
    for token in range(count):
        block, place = divmod(token + spare, BLOCK_TOKENS)
        assert torch.equal(view[blocks[block], :, :, :, place], given[token].to(dtype))
    others = [block for block in range(6) if block not in blocks]
    assert view[others].isnan().all()


def test_embeddings_are_left_to_the_base_model():
    layout = KvLayout(num_layers=3, num_kv_heads=2, head_dim=4, block_tokens=4, dtype=torch.float32)
    embeddings = torch.randn(6, 8)
    adapter = PrefixAdapter("a", "digest", embeddings=embeddings, keys_values=None)
    packed = Packer(BASE, {}, {}, layout).pack(adapter)
    assert packed.virtual_tokens is embeddings
    pool = torch.full((3 * layout.block_bytes,), 255, dtype=torch.uint8)
    assert packed.place(pool, [2, 1]).prefix.num_tokens == 6
    assert (pool == 255).all()
