"""Gain against its formula in float64: any widths, runs and neighbours, with and without bias."""

import random

import pytest
import torch
from kinds_pool import (
    BLOCK_BYTES,
    H_IN,
    MODULES,
    NUM_MODULES,
    PATTERNS,
    WIDTHS,
    Pool,
    popularity,
    to_runs,
)

from gossamer.kernels.gain import make_batch, make_gain, stack_tables
from gossamer.kernels.runs import Run
from gossamer.serving.packing.gain import pack_gains

IDS = {str(number): number for number in range(NUM_MODULES)}
BACKENDS = ("cpu", "reference")


class Case:
    """Adapters with random factors on some modules, placed in a poisoned pool."""

    def __init__(self, num_adapters, seed=0):
        self.pool = Pool(seed=seed)
        self.generator = torch.Generator().manual_seed(seed)
        rng = random.Random(seed)
        self.gains, self.keeps, tables = [], [], []
        for slot in range(num_adapters):
            modules = rng.sample(range(len(MODULES)), rng.randint(1, 3))
            gains = {m: 1 + torch.randn(WIDTHS[m], generator=self.generator) for m in modules}
            keeps = slot % 2 == 0
            outputs = {str(MODULES[m]): gain for m, gain in gains.items()}
            part = pack_gains(outputs, {}, IDS, BLOCK_BYTES, keeps_bias=keeps)
            tables.append(self.pool.place(part))
            self.gains.append(gains)
            self.keeps.append(keeps)
        self.tables = stack_tables(tables)
        self.bias = torch.randn(sum(WIDTHS), generator=self.generator)

    def run(self, runs, y, backend="cpu", workers=3):
        result = y.clone()
        operation = make_gain(self.pool.memory, MODULES, WIDTHS, self.bias, backend)
        operation.scale_outputs_(result, make_batch(self.tables, [Run(*r) for r in runs], workers))
        return result

    def expected(self, runs, y):
        result, bias = y.double(), self.bias.double()
        for first, count, slot in runs:
            for m, gain in self.gains[slot].items():
                low = sum(WIDTHS[:m])
                part = slice(low, low + WIDTHS[m])
                kept = bias[part] if self.keeps[slot] else 0
                rows = result[first : first + count, part]
                result[first : first + count, part] = (rows - kept) * gain.double() + kept
        return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_popularity(pattern, backend):
    picks = popularity(pattern, 40, random.Random(3))
    case = Case(max(picks) + 1)
    y = torch.randn(40, sum(WIDTHS), generator=case.generator)
    runs = to_runs(picks)
    got = case.run(runs, y, backend)
    assert torch.allclose(got.double(), case.expected(runs, y), rtol=1e-5, atol=1e-5)
    base = torch.tensor([pick < 0 for pick in picks])
    assert torch.equal(got[base], y[base])


def test_a_tokens_bits_do_not_depend_on_its_neighbours():
    case = Case(3, seed=4)
    y = torch.randn(30, sum(WIDTHS), generator=case.generator)
    alone = torch.cat([case.run([(0, 1, 1)], y[t : t + 1], workers=1) for t in range(30)])
    assert torch.equal(case.run([(0, 30, 1)], y), alone)
    mixed = case.run([(0, 4, 0), (4, 20, 1), (24, 6, 2)], y)
    assert torch.equal(mixed[4:24], alone[4:24])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_scaled_in_a_copy_and_only_where_asked(backend):
    pool = Pool(seed=5)
    factors = [torch.randn(H_IN) for _ in range(2)]
    parts = [pack_gains({}, {"1": f}, IDS, BLOCK_BYTES, keeps_bias=False) for f in factors]
    parts.append(pack_gains({"1": torch.ones(9)}, {}, IDS, BLOCK_BYTES, keeps_bias=False))
    tables = stack_tables([pool.place(part) for part in parts])
    runs = [Run(1, 9, 0), Run(10, 2, 1), Run(12, 3, 2)]
    batch = make_batch(tables, runs, 2)
    x = torch.randn(16, H_IN)
    before = x.clone()
    got = make_gain(pool.memory, [1], [9], None, backend).scaled_inputs(x, batch)
    want = before.clone()
    want[1:10] *= factors[0]
    want[10:12] *= factors[1]
    assert torch.equal(got, want)
    assert torch.equal(x, before)
    # Another module has no factors, and the outputs of this one are left alone.
    assert make_gain(pool.memory, [4], [9], None, backend).scaled_inputs(x, batch) is x
    y = torch.randn(16, 9)
    unscaled = y.clone()
    make_gain(pool.memory, [1], [9], None, backend).scale_outputs_(y, batch)
    assert torch.equal(y, unscaled)
