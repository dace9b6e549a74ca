"""Low-rank changes of tables, laid out in a poisoned pool, against float64."""

import pytest
import torch

from gossamer.kernels.trained_parts.table_factors import FactorTable, embed_add_, output_add_
from gossamer.serving.packing.trained_parts.token_rows import pieces_of
from gossamer.serving.packing.vectors import pack_vectors

TOKENS, HIDDEN, BLOCK = 50, 12, 128


@pytest.fixture(params=[(3, torch.float32), (1, torch.float32), (5, torch.bfloat16)], ids=str)
def placed(request):
    """A pool, the table in it, and both factors as they are read."""
    rank, dtype = request.param
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randn(TOKENS, rank, generator=generator).to(dtype)
    width = torch.randn(rank, HIDDEN, generator=generator).to(dtype)
    data = torch.cat([tokens.reshape(-1), width.reshape(-1)])
    vectors = pack_vectors(data, [rank] * TOKENS + [HIDDEN] * rank, BLOCK)
    blocks = torch.randperm(40, generator=generator)[: vectors.num_blocks].tolist()
    pool = torch.full((40 * BLOCK // 4,), float("nan")).view(torch.uint8)
    offsets = vectors.write(pool, blocks)
    table = FactorTable(
        tokens=torch.from_numpy(offsets[:TOKENS]),
        pieces=tuple(pieces_of(offsets[:TOKENS], rank)),
        width=torch.from_numpy(offsets[TOKENS:]),
        hidden=HIDDEN,
        scale=0.7,
        dtype=dtype,
    )
    return pool, table, tokens.double(), width.double()


def test_embeddings_get_what_the_factors_make_of_their_rows(placed):
    pool, table, tokens, width = placed
    ids = torch.tensor([0, 49, 7, 7, 20])
    x = torch.randn(5, HIDDEN)
    want = x.double() + 1.5 * 0.7 * tokens[ids] @ width
    embed_add_(x, ids, pool, table, 1.5)
    assert (x - want).abs().max() < 1e-5


def test_logits_of_all_tokens_get_what_the_factors_make_of_the_states(placed):
    pool, table, tokens, width = placed
    x, logits = torch.randn(4, HIDDEN), torch.randn(4, TOKENS)
    want = logits.double() + 0.7 * x.double() @ width.T @ tokens.T
    output_add_(logits, x, pool, table)
    assert (logits - want).abs().max() < 1e-4
    assert len(table.pieces) > 1


def test_a_token_gets_the_same_bits_whatever_it_is_computed_with(placed):
    pool, table, _, _ = placed
    ids = torch.randint(TOKENS, (33,), generator=torch.Generator().manual_seed(0))
    together = torch.zeros(33, HIDDEN)
    embed_add_(together, ids, pool, table, 1.0)
    for place in (0, 13, 32):
        alone = torch.zeros(1, HIDDEN)
        embed_add_(alone, ids[place : place + 1], pool, table, 1.0)
        assert torch.equal(alone[0], together[place])
