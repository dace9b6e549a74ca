"""Adapter rows in blocks: no padding, and what is written is what is read, bit for bit."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.load import load_adapter
from gossamer.kernels.grouped_lora import RowFormat, stack_tables
from gossamer.kernels.grouped_lora.reference import gather_factors
from gossamer.serving.packing.rows import RowPacker

from tiny import ALL_LINEAR, make_lora, module_shapes

BLOCK_BYTES = 1024


@pytest.fixture(scope="module")
def shapes(tiny_model):
    return module_shapes(tiny_model)


@pytest.fixture
def ids(shapes):
    return {path: number for number, path in enumerate(shapes)}


def random_adapter(shapes, ranks, dtype=torch.float32, seed=0):
    """`ranks` by module path; 0: not adapted."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: Factors(
            torch.randn(r, shapes[path][1], generator=generator).to(dtype),
            torch.randn(shapes[path][0], r, generator=generator).to(dtype),
            0.25 * (1 + r),
        )
        for path, r in ranks.items()
        if r
    }
    return SimpleNamespace(factors=factors)


def pack(adapter, ids, **options):
    return RowPacker(ids, BLOCK_BYTES, **options).pack_factors(adapter.factors)


def place(rows, num_spare=3, seed=0):
    """Write into random blocks of a poisoned pool; returns the pool and the table."""
    blocks = np.random.default_rng(seed).permutation(rows.num_blocks + num_spare).tolist()
    pool = torch.full((len(blocks) * BLOCK_BYTES // 4,), float("nan")).view(torch.uint8)
    return pool, rows.place(pool, blocks[: rows.num_blocks]), blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_round_trip(shapes, ids, dtype, seed):
    rng = random.Random(seed)
    ranks = {path: rng.choice((0, 1, 3, 4, 8, 17, 64)) for path in shapes}
    adapter = random_adapter(shapes, ranks, dtype, seed)
    rows = pack(adapter, ids)
    pool, table, _ = place(rows, seed=seed)
    tables = stack_tables([table])
    for path, (h_out, h_in) in shapes.items():
        module = ids[path]
        assert table.rank[module] == ranks[path]
        if ranks[path]:
            pair = adapter.factors[path]
            a, b_t = gather_factors(tables, pool, 0, module, h_in, h_out)
            assert torch.equal(a.float(), pair.a.float())
            assert torch.equal(b_t.float(), pair.b.T.float())
            assert table.scale[module] == np.float32(pair.scale)


@pytest.mark.parametrize("rank", [1, 4, 5, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_what_the_rows_weigh(shapes, ids, rank, dtype):
    rows = pack(random_adapter(shapes, dict.fromkeys(shapes, rank), dtype), ids)
    weight = sum(rank * (h_in + h_out) * dtype.itemsize for h_out, h_in in shapes.values())
    assert rows.num_bytes == weight
    # A block's end may be shorter than the next row; nothing else is lost.
    longest = max(max(shape) for shape in shapes.values()) * dtype.itemsize
    least = -(-weight // BLOCK_BYTES)
    assert least <= rows.num_blocks <= -(-weight // (BLOCK_BYTES - longest + 1)) + 1


def test_rows_lie_by_module_and_merge_as_they_rest(shapes, ids):
    ranks = {path: 1 + number % 3 for number, path in enumerate(shapes)}
    adapter = random_adapter(shapes, ranks)
    rows = pack(adapter, ids)
    for path, pair in adapter.factors.items():
        a, b_t = rows.factors(ids[path])
        assert torch.equal(a, pair.a)
        assert torch.equal(b_t, pair.b.T)


def test_other_blocks_are_not_touched(shapes, ids):
    rows = pack(random_adapter(shapes, dict.fromkeys(shapes, 5)), ids)
    pool, _, blocks = place(rows)
    floats = pool.view(torch.float32).view(-1, BLOCK_BYTES // 4)
    for block in blocks[rows.num_blocks :]:
        assert floats[block].isnan().all()
    assert (~floats.isnan()).sum() * 4 == rows.num_bytes


@pytest.mark.parametrize(
    ("dtype", "row_format"),
    [
        (torch.bfloat16, RowFormat.BFLOAT16),
        (torch.float16, RowFormat.FLOAT32),
        (torch.float32, RowFormat.FLOAT32),
    ],
    ids=str,
)
def test_bfloat16_stays_and_float16_becomes_float32(
    tmp_path, tiny_model, shapes, ids, dtype, row_format
):
    """float16 has more digits than bfloat16: it would lose some."""
    folder = make_lora(tmp_path / "a", tiny_model, rank=3, dtype=dtype, targets=ALL_LINEAR)
    rows = RowPacker(ids, BLOCK_BYTES).pack(load_adapter(folder))
    assert rows.table.format is row_format
    width = row_format.dtype.itemsize
    assert rows.num_bytes == sum(3 * (i + o) * width for o, i in shapes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moved_from_a_file_or_tensor_by_tensor(tmp_path, tiny_model, ids, dtype):
    """More than once, since the second of a kind goes by what was worked out for the first."""
    packer = RowPacker(ids, BLOCK_BYTES)
    patterns = {"rank_pattern": {"q_proj": 5, "0.mlp.down_proj": 1}, "alpha_pattern": {"v_proj": 2}}
    for seed, alpha in ((1, 6), (2, 6), (3, 8)):
        folder = make_lora(
            tmp_path / f"{seed}", tiny_model, rank=3, alpha=alpha, seed=seed, dtype=dtype,
            targets=ALL_LINEAR, **patterns,
        )  # fmt: skip
        adapter = load_adapter(folder)
        moved, copied = packer.pack(adapter), packer.pack_factors(adapter.factors)
        assert torch.equal(moved.vectors.data, copied.vectors.data)
        assert (moved.table.row_scale == copied.table.row_scale).all()
        assert moved.table.format is copied.table.format
        for part in ("first_row", "rank", "scale"):
            assert (getattr(moved.table, part) == getattr(copied.table, part)).all()
        assert (moved.vectors.layout.bounds == copied.vectors.layout.bounds).all()
        assert moved.table.scale[ids["model.layers.0.mlp.down_proj"]] == alpha


def test_mixed_types_become_float32(shapes, ids):
    adapter = random_adapter(shapes, dict.fromkeys(shapes, 2), torch.bfloat16)
    path = next(iter(adapter.factors))
    pair = adapter.factors[path]
    adapter.factors[path] = Factors(pair.a.float() + 1e-4, pair.b, pair.scale)
    rows = pack(adapter, ids)
    assert rows.table.format is RowFormat.FLOAT32
    pool, table, _ = place(rows)
    a, _ = gather_factors(stack_tables([table]), pool, 0, ids[path], *reversed(shapes[path]))
    assert torch.equal(a, pair.a.float() + 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int8_rows_are_a_quarter_and_off_by_half_a_unit_at_most(shapes, ids, dtype):
    adapter = random_adapter(shapes, dict.fromkeys(shapes, 3), dtype)
    path = next(iter(adapter.factors))
    adapter.factors[path].b[:, 1] = 0
    rows = pack(adapter, ids, int8=True)
    assert rows.num_bytes == sum(3 * (i + o) for o, i in shapes.values())
    pool, table, _ = place(rows)
    for path, pair in adapter.factors.items():
        factors = gather_factors(stack_tables([table]), pool, 0, ids[path], *reversed(shapes[path]))
        for got, want in zip(factors, (pair.a.float(), pair.b.T.float()), strict=True):
            unit = want.abs().amax(dim=1, keepdim=True) / 127
            assert ((got - want).abs() <= 0.5001 * unit).all()
