"""The GPU kernel of gains of inputs, interpreted, against its formula in float64."""

import numpy as np
import pytest
import torch

from gossamer.kernels.gain import GainTable
from gossamer.kernels.gain.triton_kernels import TILE, TritonInputGain
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.grouped_lora.device_table import vector_bytes, write_table

MODULE, NUM_MODULES = 2, 4
# Results are rounded once: half a unit in the last place, at most.
BOUNDS = {torch.float32: 1e-7, torch.float16: 3e-4, torch.bfloat16: 2.5e-3}


class Factors:
    """Factors of adapters in a pool that is not a number wherever nothing was written."""

    def __init__(self, width):
        self.pool = torch.full((40_000,), float("nan")).view(torch.uint8)
        self.generator = torch.Generator().manual_seed(width)
        self.width, self._used = width, 48
        self.factors, self.tables = [], []

    def _place(self, data):
        low = self._used
        self.pool[low : low + len(data)] = data
        self._used = low + -(-len(data) // 16) * 16 + 32
        return low

    def add(self, *, is_input=True, module=MODULE):
        """Add an adapter with factors of the inputs or outputs of a module."""
        factors = 1 + torch.randn(self.width, generator=self.generator)
        offsets, scales_input = np.full(NUM_MODULES, -1, np.int64), np.zeros(NUM_MODULES, bool)
        offsets[module] = self._place(factors.view(torch.uint8)) // 4
        scales_input[module] = is_input
        gain = GainTable(offsets=offsets, scales_input=scales_input, keeps_bias=False)
        (size,) = vector_bytes(NUM_MODULES, None, RowFormat.FLOAT32)
        out = np.zeros(size, np.uint8)
        write_table(None, gain, np.array([0]), out)
        self.tables.append(self._place(torch.from_numpy(out)))
        works = is_input and module == MODULE
        self.factors.append(factors.double() if works else torch.ones(self.width).double())

    def scaled(self, x, slots):
        """x after the operation; slots: each token's adapter, or -1."""
        places = [self.tables[slot] if slot >= 0 else -1 for slot in slots]
        # An array that holds more tokens than the step has.
        token_table = torch.tensor([*places, 2**50, -1])
        return TritonInputGain(self.pool, MODULE).scaled_inputs(x, token_table)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("width", [1, 44, TILE + 76])
def test_factors_of_each_tokens_own_adapter(width, dtype):
    case = Factors(width)
    for _ in range(3):
        case.add()
    slots = [1, -1, 0, 2, 1, -1]
    # Rows that lie apart, with poison between them.
    apart = torch.full((6, width + 20), float("nan"), dtype=dtype)
    x = apart[:, :width]
    x.copy_(torch.randn(6, width, generator=case.generator))
    before = x.clone()
    got = case.scaled(x, slots)
    want = x.double()
    for token, slot in enumerate(slots):
        if slot >= 0:
            want[token] *= case.factors[slot]
    assert got.dtype == dtype
    assert ((got.double() - want).norm() / want.norm()) < BOUNDS[dtype]
    assert torch.equal(got[[1, 5]], before[[1, 5]])
    assert torch.equal(x, before)
    assert got.is_contiguous()


def test_factors_of_outputs_and_of_other_modules_leave_inputs_alone():
    case = Factors(40)
    case.add(is_input=False)
    case.add(module=3)
    x = torch.randn(2, 40)
    assert torch.equal(case.scaled(x, [0, 1]), x)


def test_too_few_places():
    case = Factors(8)
    case.add()
    with pytest.raises(ValueError, match="1 places of tables for 2 tokens"):
        TritonInputGain(case.pool, MODULE).scaled_inputs(torch.ones(2, 8), torch.tensor([-1]))
