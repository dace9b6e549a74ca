"""Edits of hidden states against their formula in float64."""

import random

import pytest
import torch
from kinds_pool import BLOCK_BYTES, Pool

from gossamer.adapters.edit_positions import positions_to_edit
from gossamer.adapters.kinds.intervention import Edit, InterventionAdapter
from gossamer.kernels.hidden_edit import make_batch, make_hidden_edit, stack_tables
from gossamer.kernels.hidden_edit.batch import FIRST, LAST
from gossamer.serving.packing.hidden_edit import pack_edits

WIDTH = 37
NUM_LAYERS = 4
BACKENDS = ("cpu", "reference")


def adapter(rank, variant, layers, generator, *, tied):
    def edits():
        return {
            layer: Edit(
                torch.randn(rank, WIDTH, generator=generator),
                torch.randn(rank, WIDTH, generator=generator),
                torch.randn(rank, generator=generator),
            )
            for layer in layers
        }

    first = edits()
    last = first if tied else edits()
    return InterventionAdapter("a", "digest", variant, 2, 3, first, last)


@pytest.fixture
def adapters():
    generator = torch.Generator().manual_seed(0)
    return [
        adapter(1, "loreft", [0, 2], generator, tied=True),
        adapter(5, "direft", [2], generator, tied=False),
        adapter(16, "loreft", [0, 1, 2], generator, tied=False),
    ]


def expected(adapters, layer, hidden, edits):
    result = hidden.double()
    for token, slot, group in edits:
        edit = (adapters[slot].first if group == FIRST else adapters[slot].last).get(layer)
        if edit is None:
            continue
        h = hidden[token].double()
        change = edit.weight.double() @ h + edit.bias.double()
        if adapters[slot].variant == "loreft":
            change -= edit.rotate.double() @ h
        result[token] = h + edit.rotate.double().T @ change
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_tokens_of_any_adapters(adapters, backend, seed):
    rng = random.Random(seed)
    pool = Pool(seed=seed)
    tables = stack_tables(
        [pool.place(pack_edits(each, NUM_LAYERS, BLOCK_BYTES)) for each in adapters]
    )
    tokens = rng.sample(range(30), 12)
    edits = [(token, rng.randrange(3), rng.choice((FIRST, LAST))) for token in tokens]
    batch = make_batch(tables, edits)
    for layer in range(NUM_LAYERS):
        hidden = torch.randn(30, WIDTH)
        got = hidden.clone()
        make_hidden_edit(pool.memory, backend).edit_(got, layer, batch)
        want = expected(adapters, layer, hidden, edits)
        assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-4)
        others = [token for token in range(30) if token not in tokens]
        assert torch.equal(got[others], hidden[others])
        if layer == 3:
            assert torch.equal(got, hidden)


def test_weights_equal_to_the_projection_are_the_identity():
    generator = torch.Generator().manual_seed(1)
    rotate = torch.randn(4, WIDTH, generator=generator)
    same = {0: Edit(rotate, rotate.clone(), torch.zeros(4))}
    pool = Pool()
    part = pack_edits(
        InterventionAdapter("a", "d", "loreft", 1, 0, same, same), NUM_LAYERS, BLOCK_BYTES
    )
    batch = make_batch(stack_tables([pool.place(part)]), [(0, 0, FIRST)])
    hidden = torch.randn(2, WIDTH, generator=generator)
    got = hidden.clone()
    make_hidden_edit(pool.memory, "cpu").edit_(got, 0, batch)
    assert torch.equal(got, hidden)


def test_edits_that_both_groups_share_are_stored_once(adapters):
    row = 4 * WIDTH
    part = pack_edits(adapters[0], NUM_LAYERS, BLOCK_BYTES)
    assert part.num_bytes == 2 * (2 * 1 * row + 4)
    part = pack_edits(adapters[1], NUM_LAYERS, BLOCK_BYTES)
    assert part.num_bytes == 2 * (2 * 5 * row + 4 * 5)


def test_no_position_of_a_short_prompt_is_edited_twice():
    for n in range(1, 20):
        first, last = positions_to_edit(n, 7, 7)
        assert first + last == min(n, 14)
        assert last - first in (0, 1)
    assert positions_to_edit(5, 7, 7) == (2, 3)
    assert positions_to_edit(5, 0, 2) == (0, 2)
    assert positions_to_edit(8, 7, 1) == (7, 1)
    assert positions_to_edit(1, 3, 0) == (0, 0)
