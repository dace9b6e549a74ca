"""Adapter rows in blocks: padded to 16 bytes and no more, and read as written, bit for bit."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.load import load_adapter
from gossamer.kernels.grouped_lora import RowFormat, stack_tables
from gossamer.kernels.grouped_lora.reference import gather_factors
from gossamer.kernels.transpose import move_matrices
from gossamer.serving.packing import rows as packing_rows
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


def whole_16(width, itemsize):
    return -(-width * itemsize // 16) * 16


def row_bytes(shapes, rank, itemsize):
    return sum(rank * (whole_16(i, itemsize) + whole_16(o, itemsize)) for o, i in shapes.values())


@pytest.mark.parametrize("rank", [1, 4, 5, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_what_the_rows_weigh(shapes, ids, rank, dtype):
    """Each row takes whole 16 bytes, which those of real models are; the adapter nothing else."""
    rows = pack(random_adapter(shapes, dict.fromkeys(shapes, rank), dtype), ids)
    weight = row_bytes(shapes, rank, dtype.itemsize)
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
    assert rows.num_bytes == row_bytes(shapes, 3, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("row_format", [RowFormat.FLOAT32, RowFormat.BFLOAT16])
def test_a_file_in_another_format_than_its_rows_is_rounded(
    tmp_path, tiny_model, ids, dtype, row_format
):
    adapter = load_adapter(make_lora(tmp_path / "a", tiny_model, rank=3, dtype=dtype))
    rows = RowPacker(ids, BLOCK_BYTES, row_format).pack(adapter)
    assert rows.table.format is row_format
    for path, pair in adapter.factors.items():
        for got, want in zip(rows.factors(ids[path]), (pair.a, pair.b.T), strict=True):
            assert torch.equal(got, want.to(row_format.dtype).float())


@pytest.mark.parametrize(
    ("dtype", "targets", "is_moved"),
    [
        (torch.float32, ALL_LINEAR, True),
        (torch.bfloat16, ("q_proj", "v_proj", "o_proj"), True),
        # Rows of 100 elements of two bytes are padded.
        (torch.bfloat16, ALL_LINEAR, False),
    ],
)
def test_moved_from_a_file_or_tensor_by_tensor(
    tmp_path, tiny_model, ids, monkeypatch, dtype, targets, is_moved
):
    """More than once, since the second of a kind goes by what was worked out for the first."""
    moves = []
    monkeypatch.setattr(
        packing_rows, "move_matrices", lambda *of: (moves.append(of), move_matrices(*of))
    )
    packer = RowPacker(ids, BLOCK_BYTES)
    patterns = {
        "rank_pattern": {"q_proj": 5, "0.self_attn.o_proj": 1}, "alpha_pattern": {"v_proj": 2}
    }  # fmt: skip
    for seed, alpha in ((1, 6), (2, 6), (3, 8)):
        folder = make_lora(
            tmp_path / f"{seed}", tiny_model, rank=3, alpha=alpha, seed=seed, dtype=dtype,
            targets=targets, **patterns,
        )  # fmt: skip
        adapter = load_adapter(folder)
        moved, copied = packer.pack(adapter), packer.pack_factors(adapter.factors)
        assert torch.equal(moved.vectors.data, copied.vectors.data)
        assert (moved.table.row_scale == copied.table.row_scale).all()
        assert moved.table.format is copied.table.format
        for part in ("first_row", "rank", "scale"):
            assert (getattr(moved.table, part) == getattr(copied.table, part)).all()
        assert (moved.vectors.layout.bounds == copied.vectors.layout.bounds).all()
        assert moved.table.scale[ids["model.layers.0.self_attn.o_proj"]] == alpha
    assert len(moves) == (3 if is_moved else 0)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_odd_widths_start_at_multiples_of_16_bytes(dtype, int8):
    odd = {"a": (33, 7), "b": (5, 50), "c": (64, 48)}
    adapter = random_adapter(odd, {"a": 3, "b": 1, "c": 2}, dtype)
    rows = pack(adapter, {"b": 0, "c": 1, "a": 2}, row_format=RowFormat.INT8 if int8 else None)
    pool, table, _ = place(rows)
    assert not (table.offsets * table.format.dtype.itemsize % 16).any()
    tables = stack_tables([table])
    for path, module in (("b", 0), ("c", 1), ("a", 2)):
        pair = adapter.factors[path]
        found = gather_factors(tables, pool, 0, module, *reversed(odd[path]))
        for got, host, want in zip(found, rows.factors(module), (pair.a, pair.b.T), strict=True):
            assert torch.equal(got.float(), host)
            unit = want.float().abs().amax(dim=1, keepdim=True) / 127 if int8 else 0.0
            assert ((host - want.float()).abs() <= 0.5001 * unit).all()


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


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("row_format", [RowFormat.FLOAT32, RowFormat.BFLOAT16])
def test_rows_of_one_format_are_the_saved_ones_rounded_to_it(shapes, ids, saved, row_format):
    adapter = random_adapter(shapes, dict.fromkeys(shapes, 3), saved)
    rows = pack(adapter, ids, row_format=row_format)
    assert rows.table.format is row_format
    width = row_format.dtype.itemsize
    assert rows.num_bytes == row_bytes(shapes, 3, width)
    pool, table, _ = place(rows)
    for path, pair in adapter.factors.items():
        factors = gather_factors(stack_tables([table]), pool, 0, ids[path], *reversed(shapes[path]))
        for got, want in zip(factors, (pair.a, pair.b.T), strict=True):
            assert torch.equal(got, want.to(row_format.dtype).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int8_rows_are_a_quarter_and_off_by_half_a_unit_at_most(shapes, ids, dtype):
    adapter = random_adapter(shapes, dict.fromkeys(shapes, 3), dtype)
    path = next(iter(adapter.factors))
    adapter.factors[path].b[:, 1] = 0
    rows = pack(adapter, ids, row_format=RowFormat.INT8)
    assert rows.num_bytes == row_bytes(shapes, 3, 1)
    pool, table, _ = place(rows)
    for path, pair in adapter.factors.items():
        factors = gather_factors(stack_tables([table]), pool, 0, ids[path], *reversed(shapes[path]))
        for got, want in zip(factors, (pair.a.float(), pair.b.T.float()), strict=True):
            unit = want.abs().amax(dim=1, keepdim=True) / 127
            assert ((got - want).abs() <= 0.5001 * unit).all()


def test_float16_is_a_format_on_request(shapes, ids):
    adapter = random_adapter(shapes, dict.fromkeys(shapes, 4), torch.float16)
    rows = pack(adapter, ids, row_format=RowFormat.FLOAT16)
    assert rows.table.format is RowFormat.FLOAT16
    assert rows.vectors.data.dtype == torch.float16
    assert pack(adapter, ids).table.format is RowFormat.FLOAT32
