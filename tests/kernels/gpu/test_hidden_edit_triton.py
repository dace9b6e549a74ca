"""The GPU kernels of edits, interpreted, against their formula in float64, in a pool of NaN."""

import numpy as np
import pytest
import torch

from gossamer.kernels.hidden_edit import EditTable, make_batch, stack_tables
from gossamer.kernels.hidden_edit.triton_kernels import (
    COLUMNS,
    MAX_RANK,
    TritonHiddenEdit,
    arrays_of,
)

NUM_LAYERS = 2
BOUNDS = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Edits:
    """Adapters with edits of the given ranks [adapter][layer][group], scattered over a pool."""

    def __init__(self, ranks, width, rest=torch.float32):
        self.ranks, self.width, self.rest = np.array(ranks, dtype=np.int32), width, rest
        generator = torch.Generator().manual_seed(0)
        self.factors = {}
        pieces, tables = [], []
        for slot, of_adapter in enumerate(self.ranks):
            first_row, offsets = np.zeros((NUM_LAYERS, 2), dtype=np.int64), []
            for (layer, group), rank in np.ndenumerate(of_adapter):
                if not rank:
                    continue
                rows = torch.randn(2 * rank + 1, width, generator=generator) * width**-0.5
                # The bias fills a row of its own, shorter than the others or longer.
                bias = torch.randn(rank, generator=generator).to(rest)
                rows = rows.to(rest)
                self.factors[slot, layer, group] = rows[:rank], rows[rank:-1], bias
                first_row[layer, group] = len(offsets)
                for row in (*rows[:-1], bias):
                    offsets.append(len(pieces))
                    pieces.append(row)
            tables.append((first_row, of_adapter, offsets))
        # Pieces lie in any order, at odd places, with gaps.
        places, pool, end = {}, [], 0
        for index in np.random.default_rng(0).permutation(len(pieces)):
            gap = 1 + int(index) % 5
            pool += [torch.full((gap,), float("nan"), dtype=rest), pieces[index]]
            places[int(index)] = end + gap
            end += gap + len(pieces[index])
        pool.append(torch.full((8 - end % 8,), float("nan"), dtype=rest))
        self.pool = torch.cat(pool).view(torch.uint8)
        self.tables = stack_tables(
            [
                EditTable(
                    first_row=first, rank=rank, first_positions=1, last_positions=1,
                    offsets=np.array([places[i] for i in offsets], dtype=np.int64),
                )
                for first, rank, offsets in tables
            ]
        )  # fmt: skip

    def operation(self):
        operation = TritonHiddenEdit(self.pool, self.rest)
        operation.scratch.take(2**14).fill_(float("nan"))
        return operation

    def expected(self, hidden, layer, edits):
        result = hidden.double()
        for token, slot, group in edits:
            if (slot, layer, group) in self.factors:
                a, r, bias = (each.double() for each in self.factors[slot, layer, group])
                result[token] += (a @ result[token] + bias) @ r
        return result


def random_hidden(tokens, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tokens, width, generator=generator).to(dtype)


def check(got, hidden, want):
    assert torch.isfinite(got).all()
    change = (want - hidden.double()).norm()
    error = float((got.double() - want).norm() / torch.maximum(change, want.norm()))
    assert error < BOUNDS[hidden.dtype]


RANKS = [[[1, 4], [0, 0]], [[0, 16], [3, 0]], [[33, 5], [17, 0]]]
LISTED = [(7, 0, 1), (0, 2, 0), (3, 1, 0), (4, 1, 1), (9, 2, 1)]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("rest", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", range(NUM_LAYERS))
def test_tokens_of_several_adapters(dtype, rest, layer):
    width = COLUMNS + 44
    edits = Edits(RANKS, width, rest)
    hidden = random_hidden(10, width, dtype)
    got = hidden.clone()
    edits.operation().edit_(got, layer, make_batch(edits.tables, LISTED))
    check(got, hidden, edits.expected(hidden, layer, LISTED))
    edited = [t for t, slot, group in LISTED if (slot, layer, group) in edits.factors]
    others = [t for t in range(10) if t not in edited]
    assert torch.equal(got[others], hidden[others])
    assert all(not torch.equal(got[t], hidden[t]) for t in edited)


def test_a_narrow_state_whose_rows_lie_apart():
    edits = Edits(RANKS, 7)
    apart = torch.full((10, 12), float("nan"))
    apart[:, :7] = hidden = random_hidden(10, 7)
    edits.operation().edit_(apart[:, :7], 0, make_batch(edits.tables, LISTED))
    check(apart[:, :7], hidden, edits.expected(hidden, 0, LISTED))
    assert apart[:, 7:].isnan().all()


def test_unused_places_change_nothing_nor_does_company():
    edits = Edits(RANKS, 50)
    hidden = random_hidden(10, 50)
    together, alone = hidden.clone(), hidden.clone()
    # An edit of token -1 would show in the row before the first.
    memory = torch.cat([torch.ones(1, 50), hidden])
    padded = memory[1:]
    edits.operation().edit_(together, 0, make_batch(edits.tables, LISTED))
    for edit in LISTED:
        edits.operation().edit_(alone, 0, make_batch(edits.tables, [edit]))
    arrays = arrays_of(make_batch(edits.tables, LISTED), torch.device("cpu"), edits=8)
    edits.operation().edit_listed_(padded, 0, arrays)
    assert len(arrays.token) == 8
    assert torch.equal(alone, together)
    assert torch.equal(padded, together)
    assert torch.equal(memory[0], torch.ones(50))


def test_the_arrays_of_a_step_serve_its_layers_only():
    edits = Edits(RANKS, 20)
    operation = edits.operation()
    for listed in ([LISTED[1]], [LISTED[2], LISTED[4]]):
        batch = make_batch(edits.tables, listed)
        for layer in range(NUM_LAYERS):
            hidden = random_hidden(10, 20)
            got = hidden.clone()
            operation.edit_(got, layer, batch)
            check(got, hidden, edits.expected(hidden, layer, listed))


def test_too_high_a_rank():
    edits = Edits([[[MAX_RANK + 1, 0], [0, 0]]], 4)
    batch = make_batch(edits.tables, [(0, 0, 0)])
    with pytest.raises(ValueError, match=f"rank {MAX_RANK + 1}, at most {MAX_RANK}"):
        edits.operation().edit_(random_hidden(1, 4), 0, batch)
