"""The GPU kernels on what the packer has laid out, interpreted, against float64.

Rows, gains and tables lie in scattered blocks of a poisoned pool, as when serving.
"""

import numpy as np
import pytest
import torch

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.kinds.sparse_delta import Blocks, Entries
from gossamer.kernels.bundles import make_bundles
from gossamer.kernels.gain.triton_kernels import TritonInputGain
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.grouped_lora.triton_kernels import TritonGroupedLora
from gossamer.kernels.paged_attention import KvLayout
from gossamer.kernels.runs import Run
from gossamer.kernels.scratch import ScratchMemory
from gossamer.kernels.sparse_delta.triton_kernels import TritonSparseDelta
from gossamer.serving.packing.device_tables import pack_tables
from gossamer.serving.packing.gain import pack_gains
from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.sparse_delta import pack_sparse
from gossamer.serving.packing.target import PackTarget

SHAPES = {"up": (44, 37), "gate": (19, 37), "down": (37, 44)}
IDS = {"down": 0, "gate": 1, "up": 2}
UP, WIDTHS = (2, 1), (44, 19)
"""The group that reads the same input."""
LAYOUT = KvLayout(num_layers=2, num_kv_heads=1, head_dim=16, block_tokens=4, dtype=torch.float32)


class Pool:
    """Adapters of all kinds, packed and placed."""

    def __init__(self, *, int8=False):
        base = BaseShape(linears=SHAPES, num_layers=2, hidden_size=37, num_kv_heads=1, head_dim=16)
        rows = RowPacker(IDS, LAYOUT.block_bytes, RowFormat.INT8 if int8 else None)
        self.target = PackTarget(base=base, module_ids=IDS, linears={}, layout=LAYOUT, rows=rows)
        self.memory = torch.full((400 * LAYOUT.block_bytes // 4,), float("nan")).view(torch.uint8)
        self._free = np.random.default_rng(0).permutation(400).tolist()
        self.generator = torch.Generator().manual_seed(0)

    def randn(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def place(self, parts):
        adapter = HostAdapter(parts=parts, tables=pack_tables("a", parts, self.target))
        blocks = [self._free.pop() for _ in range(adapter.num_blocks)]
        return adapter.place(self.memory, blocks).tables

    def rows(self, ranks, dtype):
        return self.target.rows.pack_factors({
            path: Factors(
                self.randn(rank, SHAPES[path][1]).to(dtype),
                self.randn(SHAPES[path][0], rank).to(dtype),
                0.5 * rank,
            )
            for path, rank in ranks.items()
        })  # fmt: skip


@pytest.mark.parametrize(("dtype", "int8"), [(torch.float32, 0), (torch.bfloat16, 0), (None, 1)])
def test_rows_and_gains_of_outputs(dtype, int8):
    pool = Pool(int8=bool(int8))
    ranks = [{"up": 5, "gate": 17, "down": 3}, {"gate": 1}, {"down": 2}]
    rows = [pool.rows(each, dtype or torch.float32) for each in ranks]
    gain = 1 + pool.randn(19)
    gains = pack_gains({"gate": gain}, {}, IDS, LAYOUT.block_bytes, keeps_bias=False)
    tables = [pool.place({"lora": rows[0]}), pool.place({"lora": rows[1], "gain": gains})]
    tables.append(pool.place({"lora": rows[2]}))
    assert [each.cost for each in tables] == [25, 1, 2]
    runs = [Run(0, 2, 0), Run(2, 1, 1), Run(3, 2, 2)]
    bundles = make_bundles(runs, [t.lora for t in tables], [t.cost for t in tables], 8)
    scratch = ScratchMemory(torch.device("cpu"))
    scratch.take(2**18).fill_(float("nan"))
    x, y = pool.randn(6, 37), pool.randn(6, sum(WIDTHS))
    got = y.clone()
    TritonGroupedLora(pool.memory, UP, WIDTHS, 37, scratch).add_(got, x, bundles)
    want = y.double()
    for first, count, slot, _ in runs:
        for path, low, high in (("up", 0, 44), ("gate", 44, 63)):
            if path in ranks[slot]:
                a, b_t = (each.double() for each in rows[slot].factors(IDS[path]))
                scale = 0.5 * ranks[slot][path]
                want[first : first + count, low:high] += (
                    scale * (x[first : first + count].double() @ a.T) @ b_t
                )
    want[2, 44:] *= gain.double()
    assert torch.isfinite(got).all()
    assert (got.double() - want).norm() / want.norm() < 1e-6
    assert torch.equal(got[3:], y[3:])


def test_gains_of_inputs():
    pool = Pool()
    gain = 1 + pool.randn(44)
    parts = {"gain": pack_gains({}, {"down": gain}, IDS, LAYOUT.block_bytes, keeps_bias=False)}
    tables = [pool.place(parts), pool.place({"lora": pool.rows({"up": 2}, torch.float32)})]
    assert [each.scaled_inputs for each in tables] == [{0}, frozenset()]
    x = pool.randn(3, 44)
    places = torch.tensor([tables[0].lora, tables[1].lora, -1])
    got = TritonInputGain(pool.memory, IDS["down"]).scaled_inputs(x, places)
    assert torch.allclose(got[0], x[0] * gain, rtol=1e-6)
    assert torch.equal(got[1:], x[1:])


def test_sparse_changes():
    pool = Pool()
    entries = Entries(
        torch.randint(44, (200,), generator=pool.generator),
        torch.randint(37, (200,), generator=pool.generator),
        pool.randn(200),
    )
    deltas = [
        {"up": entries, "gate": Blocks(torch.tensor([[2, 3, 17, 30]]), pool.randn(17 * 30))},
        {"down": Blocks(torch.tensor([[0, 0, 4, 4]]), pool.randn(16))},
    ]
    tables = [pool.place({"sparse": pack_sparse(each, IDS, LAYOUT.block_bytes)}) for each in deltas]
    runs = [Run(0, 2, 0, 0.5), Run(2, 1, 1)]
    bundles = make_bundles(runs, [t.sparse for t in tables], [t.cost for t in tables], 8)
    x, y = pool.randn(4, 37), pool.randn(4, sum(WIDTHS))
    got = y.clone()
    TritonSparseDelta(pool.memory, UP, WIDTHS).add_(got, x, bundles)
    want = y.double()
    for path, low, high in (("up", 0, 44), ("gate", 44, 63)):
        dense = torch.zeros(*SHAPES[path], dtype=torch.float64)
        deltas[0][path].add_to(dense)
        want[:2, low:high] += 0.5 * x[:2].double() @ dense.T
    assert (got.double() - want).norm() / want.norm() < 1e-6
    assert torch.equal(got[2:], y[2:])
