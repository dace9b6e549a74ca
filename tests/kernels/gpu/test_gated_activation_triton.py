"""The gate's GPU kernel, interpreted, against its formula in float64."""

import pytest
import torch

from gossamer.kernels.gated_activation import reference
from gossamer.kernels.gated_activation.triton_kernels import TILE, silu_and_multiply

# Results are rounded once: half a unit in the last place, at most.
BOUNDS = {torch.float32: 1e-6, torch.float16: 3e-4, torch.bfloat16: 2.5e-3}


def random_rows(tokens, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(tokens, 2 * width, generator=generator)).to(dtype)


def check(got, want, dtype=torch.float32):
    assert got.dtype == dtype
    assert torch.isfinite(got).all()
    assert float((got.double() - want).norm() / want.norm()) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("width", [1, 44, TILE, TILE + 76])
def test_rows_of_any_width(width, dtype):
    rows = random_rows(5, width, dtype)
    check(silu_and_multiply(rows), reference.silu_and_multiply(rows.double()), dtype)


def test_large_gates_neither_overflow_nor_vanish():
    gate = torch.tensor([[-1e30, -200.0, -20.0, 0.0, 20.0, 200.0, 1e30]])
    up = torch.full_like(gate, 3.0)
    got = silu_and_multiply(torch.cat([gate, up], dim=1))
    want = 3 * gate.double() * torch.sigmoid(gate.double())
    assert torch.allclose(got.double(), want, rtol=1e-6, atol=1e-30)


def test_any_leading_dimensions_and_rows_that_lie_apart():
    rows = random_rows(6, 50)
    apart = torch.full((6, 130), float("nan"))
    apart[:, :100] = rows
    want = reference.silu_and_multiply(rows.double())
    check(silu_and_multiply(apart[:, :100]), want)
    shaped = silu_and_multiply(rows.view(2, 3, 100))
    assert shaped.shape == (2, 3, 50)
    check(shaped.view(6, 50), want)
