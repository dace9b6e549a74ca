"""The shares of an adapter act on the shares of the layers as the whole does on the whole."""

from dataclasses import replace

import pytest
import torch

from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.adapters.kinds.sparse_delta import Blocks, Entries, SparseAdapter
from gossamer.adapters.load import load_adapter
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.shares.kinds import share_of_ia3, share_of_prefix, share_of_sparse
from gossamer.serving.packing.shares.low_rank import SplitRowPacker
from gossamer.serving.shard import Shard, slices_of

from tiny import make_lora, make_tiny_model, module_shapes

SHAPES = {"a.q_proj": (24, 10), "a.k_proj": (8, 10), "a.o_proj": (10, 24), "whole": (6, 10)}
STYLES = {"a.q_proj": "column", "a.k_proj": "column", "a.o_proj": "row"}


def slices(rank, size):
    shard = Shard(rank, size, lambda tensor: None, lambda part, total: part)
    return slices_of(shard, STYLES, SHAPES, kv_heads=2)


def entries(path, generator, count=30):
    h_out, h_in = SHAPES[path]
    return Entries(
        torch.randint(h_out, (count,), generator=generator),
        torch.randint(h_in, (count,), generator=generator),
        torch.randn(count, generator=generator),
    )


def blocks(path, generator, count=4):
    places = []
    for _ in range(count):
        corner = [int(torch.randint(side, (), generator=generator)) for side in SHAPES[path]]
        places.append([*corner, *(s - c for s, c in zip(SHAPES[path], corner, strict=True))])
    held = sum(height * width for _, _, height, width in places)
    return Blocks(torch.tensor(places), torch.randn(held, generator=generator))


def dense(delta, shape):
    weight = torch.zeros(shape)
    delta.add_to(weight)
    return weight


def test_sparse_changes_of_all_ranks_are_the_whole_change():
    generator = torch.Generator().manual_seed(3)
    for make in (entries, blocks):
        adapter = SparseAdapter("s", "d", {path: make(path, generator) for path in SHAPES})
        for size in (2, 4):
            for rank in range(size):
                own = slices(rank, size)
                share = share_of_sparse(adapter, own)
                for path, delta in adapter.deltas.items():
                    part = own.of(path)
                    want = dense(delta, SHAPES[path])[part.outputs, part.inputs]
                    torch.testing.assert_close(dense(share.deltas[path], want.shape), want)


def test_a_rank_may_have_no_changes_at_all():
    far = Entries(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
    block = Blocks(torch.tensor([[0, 0, 1, 1]]), torch.tensor([1.0]))
    adapter = SparseAdapter("s", "d", {"a.q_proj": far, "a.o_proj": block})
    share = share_of_sparse(adapter, slices(1, 2))
    assert len(share.deltas["a.q_proj"].values) == 0
    assert share.deltas["a.o_proj"].places.shape == (0, 4)


def test_fewer_key_value_heads_than_ranks_are_copied():
    """Four ranks and two heads of 4: ranks 0 and 1 have the first, 2 and 3 the second."""
    factors = torch.arange(8.0)
    adapter = Ia3Adapter("i", "d", {"a.k_proj": factors}, {"a.o_proj": torch.arange(24.0)})
    kept = [share_of_ia3(adapter, slices(rank, 4)) for rank in range(4)]
    assert [share.outputs["a.k_proj"].tolist() for share in kept] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [4, 5, 6, 7],
    ]
    assert torch.equal(torch.cat([s.inputs["a.o_proj"] for s in kept]), torch.arange(24.0))


def test_a_prefix_keeps_the_rank_s_heads():
    states = torch.randn(5, 3, 2, 2, 4)
    adapter = PrefixAdapter("p", "d", None, states)
    assert torch.equal(share_of_prefix(adapter, slices(1, 2)).keys_values, states[:, :, :, 1:])
    embeddings = PrefixAdapter("p", "d", torch.randn(5, 10), None)
    assert share_of_prefix(embeddings, slices(1, 2)) is embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_share_are_those_of_the_whole_cut(tmp_path, dtype):
    """Moved in one pass from the file where they rest as they were saved, or made one by one."""
    model = make_tiny_model(tmp_path / "model", intermediate_size=96)
    adapter = load_adapter(make_lora(tmp_path / "a", model, rank=3, dtype=dtype))
    shapes = module_shapes(model)
    ids = {path: number for number, path in enumerate(shapes)}
    styles = {
        path: "row" if path.endswith(("o_proj", "down_proj")) else "column" for path in shapes
    }
    whole = RowPacker(ids, 12288).pack(adapter)
    for size in (2, 4):
        for rank in range(size):
            shard = Shard(rank, size, lambda tensor: None, lambda part, total: part)
            own = slices_of(shard, styles, shapes, kv_heads=2)
            share = RowPacker(ids, 12288).for_share(own).pack(adapter)
            for path, number in ids.items():
                for got, factor, columns in zip(
                    share.factors(number),
                    whole.factors(number),
                    (own.of(path).inputs, own.of(path).outputs),
                    strict=True,
                ):
                    assert torch.equal(got, factor[:, columns])


def split_rows(adapter, size, ids, shapes, slices_of_rank, row_format):
    """A and B transposed by module, of all ranks in order, and the bytes of each rank."""
    found, weights = {path: ([], []) for path in ids}, []
    for rank in range(size):
        own = slices_of_rank(rank)
        rows = SplitRowPacker(ids, 12288, row_format, own, own.split).pack(adapter)
        weights.append(rows.num_bytes)
        table, bounds = rows.table, rows.vectors.layout.bounds
        for path, number in ids.items():
            first, each = int(table.first_row[number]), int(table.own[number])
            h_out, h_in = shapes[path]
            is_row = own.of(path).is_partial
            for factor, low, count, width in zip(
                found[path],
                (first, first + each),
                (each, int(table.rank[number])),
                (h_in // size if is_row else h_in, h_out // size),
                strict=True,
            ):
                data = rows.vectors.data[bounds[low] : bounds[low + count]].view(count, -1)
                data = data[:, :width].float()
                factor.append(data * torch.from_numpy(table.row_scale[low : low + count, None]))
    return found, weights


@pytest.mark.parametrize("row_format", [None, RowFormat.INT8], ids=["as-saved", "int8"])
@pytest.mark.parametrize("size", [2, 4])
def test_shares_of_both_factors_are_the_whole_ones_cut(tmp_path, size, row_format):
    """Rank 5 is no multiple of the number of ranks: the last rows of A are zero."""
    model = make_tiny_model(tmp_path / "model", intermediate_size=96)
    adapter = load_adapter(make_lora(tmp_path / "a", model, rank=5))
    shapes = module_shapes(model)
    ids = {path: number for number, path in enumerate(shapes)}
    styles = {
        path: "row" if path.endswith(("o_proj", "down_proj")) else "column" for path in shapes
    }

    def slices_of_rank(rank):
        shard = Shard(rank, size, lambda tensor: None, lambda part, total: part)
        return slices_of(replace(shard, splits_factors=True), styles, shapes, kv_heads=4)

    whole = RowPacker(ids, 12288, row_format).pack(adapter)
    found, weights = split_rows(adapter, size, ids, shapes, slices_of_rank, row_format)
    for path, number in ids.items():
        a, b_t = whole.factors(number)
        of_a, of_b = found[path]
        if styles[path] == "row":
            assert torch.equal(torch.cat(of_a, dim=1), a)
        else:
            padded = torch.cat(of_a)
            assert torch.equal(padded[:5], a)
            assert len(padded) == size * -(-5 // size)
            assert not padded[5:].any()
        assert torch.equal(torch.cat(of_b, dim=1), b_t)
    width = 1 if row_format else 4

    def num_bytes(rows, columns):
        return rows * -(-columns * width // 16) * 16

    per_rank = sum(
        num_bytes(5, h_in // size) if styles[path] == "row" else num_bytes(-(-5 // size), h_in)
        for path, (_, h_in) in shapes.items()
    ) + sum(num_bytes(5, h_out // size) for h_out, _ in shapes.values())
    assert weights == [per_rank] * size
