"""Tables for GPU kernels in an adapter's own blocks: found, read back, and no byte beside them."""

import numpy as np
import pytest
import torch

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.kinds.sparse_delta import Blocks, Entries
from gossamer.adapters.load import load_adapter
from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.module_header import HEADER, KEEPS_BIAS, SCALES_INPUT, SCALES_OUTPUT
from gossamer.kernels.paged_attention import KvLayout
from gossamer.kernels.sparse_delta import device_table as sparse_table
from gossamer.serving.packing.capacity import BaseSizes, PoolSizes
from gossamer.serving.packing.device_tables import pack_tables
from gossamer.serving.packing.gain import cost_of_dora, pack_gains
from gossamer.serving.packing.low_rank import cost_of_rank
from gossamer.serving.packing.packer import HostAdapter, Packer
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.sparse_delta import pack_sparse
from gossamer.serving.packing.target import PackTarget

from tiny import make_lora, module_shapes

SHAPES = {
    f"{layer}.{name}": shape
    for layer in range(3)
    for name, shape in {
        "q": (64, 48), "o": (48, 64), "up": (100, 48), "down": (48, 100), "odd": (33, 7),
    }.items()
}  # fmt: skip
"""(h_out, h_in); some are not whole 16 bytes in some formats."""
IDS = {path: number for number, path in enumerate(sorted(SHAPES, reverse=True))}
BASE = BaseShape(linears=SHAPES, num_layers=3, hidden_size=48, num_kv_heads=1, head_dim=16)
FLOAT, HALF, INT8, _ = RowFormat


def target(block_tokens=4, int8=False):
    """Blocks of 384 bytes for each token."""
    layout = KvLayout(
        num_layers=3, num_kv_heads=1, head_dim=16, block_tokens=block_tokens, dtype=torch.float32
    )
    rows = RowPacker(IDS, layout.block_bytes, INT8 if int8 else None)
    return PackTarget(base=BASE, module_ids=IDS, linears={}, layout=layout, rows=rows)


def random_factors(ranks, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        path: Factors(
            torch.randn(rank, SHAPES[path][1], generator=generator).to(dtype),
            torch.randn(SHAPES[path][0], rank, generator=generator).to(dtype),
            0.5 + rank,
        )
        for path, rank in ranks.items()
    }


def random_gains(paths, side):
    generator = torch.Generator().manual_seed(1)
    return {path: torch.randn(SHAPES[path][side], generator=generator) for path in paths}


def with_tables(parts, to):
    return HostAdapter(parts=parts, tables=pack_tables("a", parts, to))


def placed(adapter, to, seed=0):
    """The resident, and the bytes of the pool; checks that no byte beside those of the adapter is
    written, and that each of its own is."""
    blocks = np.random.default_rng(seed).permutation(adapter.num_blocks + 3).tolist()
    own, pools = blocks[: adapter.num_blocks], []
    for poison in (0x55, 0xAA):
        memory = torch.full((len(blocks) * to.block_bytes,), poison, dtype=torch.uint8)
        resident = adapter.place(memory, own)
        pools.append(memory)
    # What was not written differs between the two.
    written = (pools[0] == pools[1]).view(len(blocks), -1).sum(1)
    assert int(written.sum()) == adapter.num_bytes
    assert not written[blocks[adapter.num_blocks :]].any()
    assert written[own].all()
    return resident, pools[0]


class Reader:
    """Reads tables as kernels do: from the place of the headers on."""

    def __init__(self, pool, place):
        assert place >= 0
        assert place % 16 == 0
        self.pool, self.bytes, self.place = pool, pool.numpy(), place

    def records(self, place, count, dtype):
        assert place % 16 == 0
        return self.bytes[place : place + count * dtype.itemsize].view(dtype)

    def rows(self, module, h_in, h_out):
        """A, B transposed and the scale of a module; None without rows."""
        header = self.records(self.place, len(IDS), HEADER)[module]
        rank, row_format = int(header["rank"]), RowFormat(header["flags"] & 3)
        if not rank:
            return None
        place = 8 * int(header["rows"])
        offsets = self.records(place, 2 * rank, np.dtype("<i8")).tolist()
        elements = self.pool.view(row_format.dtype)
        assert all(offset * elements.itemsize % 16 == 0 for offset in offsets)
        widths = [h_in] * rank + [h_out] * rank
        rows = [
            elements[at : at + width].float() for at, width in zip(offsets, widths, strict=True)
        ]
        if row_format is INT8:
            low = place + 16 * rank
            scales = self.bytes[low : low + 8 * rank].view("<f4").tolist()
            rows = [row * scale for row, scale in zip(rows, scales, strict=True)]
        return torch.stack(rows[:rank]), torch.stack(rows[rank:]), float(header["scale"])

    def gain(self, module, width):
        """The flags of a module's gain and its factors."""
        header = self.records(self.place, len(IDS), HEADER)[module]
        at = int(header["gain"])
        return int(header["flags"]) & ~3, self.pool.view(torch.float32)[at : at + width]

    def change(self, module, h_out, h_in):
        """The sparse change of a module, dense, float64; None without one."""
        dense = torch.zeros(h_out, h_in, dtype=torch.float64)
        header = self.records(self.place, len(IDS), sparse_table.HEADER)[module]
        if header["bands"] < 0:
            return None
        num_bands = -(-h_out // sparse_table.BAND)
        bands = self.records(8 * int(header["bands"]), num_bands, sparse_table.BAND_RECORD)
        for number, band in enumerate(bands):
            place = 8 * int(band["segments"])
            for segment in self.records(place, int(band["count"]), sparse_table.SEGMENT):
                self._add(dense, number, segment, bool(header["half"]))
        return dense

    def _add(self, dense, band, segment, half):
        length, row = divmod(int(segment["length_and_row"]), sparse_table.BAND)
        at, column = int(segment["offset"]), int(segment["column"])
        view = self.pool.view(torch.bfloat16 if half else torch.float32)
        first = 2 * at if half else at
        values = view[first : first + length].double()
        listed = at + (-(-length // 2) if half else length)
        columns = torch.arange(column, column + length)
        if column < 0:
            columns = self.pool.view(torch.int32)[listed : listed + length].long()
        dense[sparse_table.BAND * band + row].index_add_(0, columns, values)


@pytest.mark.parametrize(("dtype", "int8"), [(torch.float32, 0), (torch.bfloat16, 0), (None, 1)])
@pytest.mark.parametrize("block_tokens", [2, 7, 64])
def test_rows_of_every_module_are_found(block_tokens, dtype, int8):
    """In blocks that each hold a few vectors, and in one that holds all."""
    to = target(block_tokens, bool(int8))
    ranks = {path: 1 + number % 9 for path, number in IDS.items() if number % 4}
    rows = to.rows.pack_factors(random_factors(ranks, dtype or torch.float32))
    adapter = with_tables({"lora": rows}, to)
    resident, pool = placed(adapter, to)
    assert resident.lora is None
    assert resident.tables.cost == sum(ranks.values())
    assert resident.tables.row_format is rows.table.format
    assert (resident.tables.sparse, resident.tables.scaled_inputs) == (-1, frozenset())
    reader = Reader(pool, resident.tables.lora)
    for path, module in IDS.items():
        h_out, h_in = SHAPES[path]
        found = reader.rows(module, h_in, h_out)
        if path not in ranks:
            assert found is None
            continue
        a, b_t = rows.factors(module)
        assert torch.equal(found[0], a)
        assert torch.equal(found[1], b_t)
        assert found[2] == 0.5 + ranks[path]
    assert adapter.tables.vectors.num_blocks > (block_tokens == 2)
    assert (adapter.num_blocks == 1) == (block_tokens == 64)


def test_gains_beside_rows_and_alone():
    to = target()
    rows = to.rows.pack_factors(random_factors({"0.q": 3, "1.up": 2}))
    outputs, inputs = random_gains(["0.q", "2.odd", "1.down"], 0), random_gains(["0.down"], 1)
    for keeps_bias, parts in ((True, {"lora": rows}), (False, {})):
        gain = pack_gains(outputs, inputs, IDS, to.block_bytes, keeps_bias=keeps_bias)
        resident, pool = placed(with_tables({**parts, "gain": gain}, to), to)
        assert resident.gain is None
        assert resident.tables.scaled_inputs == {IDS["0.down"]}
        reader = Reader(pool, resident.tables.lora)
        for path in SHAPES:
            own = outputs.get(path, inputs.get(path))
            flags, factors = reader.gain(IDS[path], 0 if own is None else len(own))
            kept = SCALES_OUTPUT | (KEEPS_BIAS if keeps_bias else 0)
            assert flags == (SCALES_INPUT if path in inputs else kept if path in outputs else 0)
            assert own is None or torch.equal(factors, own)
        has_rows = reader.rows(IDS["1.up"], 48, 100) is not None
        assert has_rows == bool(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_tokens", [2, 128])
def test_sparse_changes_of_every_module_are_found(block_tokens, dtype):
    to = target(block_tokens)
    generator = torch.Generator().manual_seed(2)

    def entries(h_out, h_in, count):
        rows, columns = (torch.randint(n, (count,), generator=generator) for n in (h_out, h_in))
        return Entries(rows, columns, torch.randn(count, generator=generator).to(dtype))

    deltas = {path: entries(*SHAPES[path], 120) for path in ("0.q", "2.odd", "1.down")}
    places = torch.tensor([[3, 5, 20, 17], [60, 0, 40, 30], [10, 5, 2, 1]])
    values = torch.randn(20 * 17 + 40 * 30 + 2, generator=generator).to(dtype)
    deltas["1.up"] = Blocks(places, values)
    adapter = with_tables({"sparse": pack_sparse(deltas, IDS, to.block_bytes)}, to)
    resident, pool = placed(adapter, to)
    assert resident.sparse is None
    assert (resident.tables.lora, resident.tables.row_format) == (-1, None)
    assert resident.tables.cost == 3 * 120 + len(values)
    assert resident.tables.half_values == (dtype == torch.bfloat16)
    reader = Reader(pool, resident.tables.sparse)
    for path, module in IDS.items():
        found = reader.change(module, *SHAPES[path])
        if path in deltas:
            dense = torch.zeros(*SHAPES[path], dtype=torch.float64)
            deltas[path].add_to(dense)
            assert torch.allclose(found, dense, rtol=0, atol=1e-12)
        else:
            assert found is None
    assert (adapter.num_blocks == 1) == (block_tokens == 128)


def test_a_small_adapter_takes_no_block_more():
    """The tables fit behind its rows, where the last block has room."""
    to = target(64)
    for parts in (
        {"lora": to.rows.pack_factors(random_factors({"0.q": 4, "2.o": 4}))},
        {"gain": pack_gains(random_gains(["0.q"], 0), {}, IDS, to.block_bytes, keeps_bias=False)},
    ):
        adapter = with_tables(parts, to)
        assert adapter.num_blocks == HostAdapter(parts=parts).num_blocks == 1
        assert adapter.num_bytes > HostAdapter(parts=parts).num_bytes
        placed(adapter, to)


def test_rows_that_fill_their_block_are_followed_by_a_block_of_tables():
    to = target(7)
    rows = to.rows.pack_factors(random_factors({"0.q": 6}))
    assert (rows.num_blocks, rows.num_bytes) == (1, to.block_bytes)
    full = with_tables({"lora": rows}, to)
    assert full.num_blocks == 2
    placed(full, to)


def test_an_adapter_may_be_placed_again_elsewhere():
    to = target(4)
    adapter = with_tables({"lora": to.rows.pack_factors(random_factors({"0.q": 3}))}, to)
    for seed in range(3):
        resident, pool = placed(adapter, to, seed)
        a, _, _ = Reader(pool, resident.tables.lora).rows(IDS["0.q"], 48, 64)
        assert torch.equal(a, adapter.parts["lora"].factors(IDS["0.q"])[0])


def test_what_the_kernels_have_no_room_for_is_refused():
    to = target(64)
    parts = {"lora": to.rows.pack_factors(random_factors({"0.odd": 257}))}
    with pytest.raises(UnsupportedAdapterError, match="a has rank 257; on a GPU it may be 256"):
        pack_tables("a", parts, to)
    placed(with_tables({"lora": to.rows.pack_factors(random_factors({"0.odd": 256}))}, to), to)


def test_a_table_longer_than_a_block_names_the_block_that_would_hold_it():
    ranks = {"0.odd": 100}
    to = target(2)
    parts = {"lora": to.rows.pack_factors(random_factors(ranks))}
    with pytest.raises(UnsupportedAdapterError, match=r"table of 1600 bytes.*--block-tokens 5"):
        pack_tables("a", parts, to)
    for tokens, fits in ((4, False), (5, True)):
        to = target(tokens)
        parts = {"lora": to.rows.pack_factors(random_factors(ranks))}
        if fits:
            placed(with_tables(parts, to), to)
        else:
            with pytest.raises(UnsupportedAdapterError):
                pack_tables("a", parts, to)


# The packer.


@pytest.fixture(scope="module")
def tiny_shapes(tiny_model):
    return module_shapes(tiny_model)


def tiny_packer(shapes, block_tokens=16, **options):
    base = BaseShape(linears=shapes, num_layers=3, hidden_size=48, num_kv_heads=2, head_dim=16)
    layout = KvLayout(
        num_layers=3, num_kv_heads=2, head_dim=16, block_tokens=block_tokens, dtype=torch.float32
    )
    ids = {path: number for number, path in enumerate(shapes)}
    sizes = BaseSizes(shape=base, num_parameters=0, max_context=64)
    return Packer(base, ids, {}, layout, **options), sizes


@pytest.mark.parametrize(("rank", "int8"), [(1, False), (8, False), (8, True), (64, False)])
def test_costs_are_those_of_packing(tmp_path, tiny_model, tiny_shapes, rank, int8):
    adapter = load_adapter(make_lora(tmp_path / "a", tiny_model, rank=rank))
    for device_tables in (False, True):
        rows = INT8 if int8 else None
        packer, sizes = tiny_packer(tiny_shapes, rows=rows, device_tables=device_tables)
        pool = PoolSizes(
            base=sizes, block_tokens=16, row_width=1 if int8 else 4, device_tables=device_tables
        )
        packed, cost = packer.pack(adapter), cost_of_rank(pool, rank)
        assert (packed.num_bytes, packed.num_blocks) == (cost.num_bytes, cost.num_blocks)
        assert (packed.tables is not None) == device_tables


def test_costs_of_gains_are_those_of_packing():
    to = target(16)
    rows = to.rows.pack_factors(random_factors(dict.fromkeys(SHAPES, 16)))
    gain = pack_gains(random_gains(SHAPES, 0), {}, IDS, to.block_bytes, keeps_bias=True)
    packed = with_tables({"lora": rows, "gain": gain}, to)
    sizes = BaseSizes(shape=BASE, num_parameters=0, max_context=64)
    pool = PoolSizes(base=sizes, block_tokens=16, row_width=4, device_tables=True)
    (cost,) = cost_of_dora(pool).values()
    assert (packed.num_bytes, packed.num_blocks) == (cost.num_bytes, cost.num_blocks)


def test_host_memory_comes_from_the_callable(tmp_path, tiny_model, tiny_shapes):
    made = []

    def empty(count, dtype):
        made.append(torch.full((count * dtype.itemsize,), 77, dtype=torch.uint8).view(dtype))
        return made[-1]

    adapter = load_adapter(make_lora(tmp_path / "a", tiny_model, rank=3))
    packer, _ = tiny_packer(tiny_shapes, device_tables=True, empty=empty)
    packed = packer.pack(adapter)
    of = [packed.parts["lora"].vectors.data, packed.tables.vectors.data]
    assert [each.data_ptr() for each in of] == [each.data_ptr() for each in made]


def test_blocks_that_are_not_whole_16_bytes_are_refused(tiny_shapes):
    base = BaseShape(linears=tiny_shapes, num_layers=1, hidden_size=48, num_kv_heads=1, head_dim=6)
    layout = KvLayout(
        num_layers=1, num_kv_heads=1, head_dim=6, block_tokens=1, dtype=torch.bfloat16
    )
    with pytest.raises(SettingError, match="'block_tokens' 1: a block has 24 bytes"):
        Packer(base, {}, {}, layout, device_tables=True)
