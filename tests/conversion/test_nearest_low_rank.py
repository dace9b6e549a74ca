"""The best factors of a rank, against torch's singular values in float64."""

import pytest
import torch

from gossamer.conversion.low_rank import approximate


def sparse(shape, density=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) < density)


def relative(delta, factors):
    delta = delta.double()
    product = factors.scale * (factors.b.double() @ factors.a.double())
    return float((delta - product).norm() / delta.norm())


def best(delta, rank):
    values = torch.linalg.svdvals(delta.double())
    return float(values[rank:].norm() / values.norm())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (31, 31), (1, 9), (9, 1)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_no_factors_of_the_rank_are_nearer(shape, rank):
    delta = sparse(shape, 0.5)
    part = approximate(delta, rank=rank)
    assert part.factors.rank == min(rank, *shape)
    assert part.error == pytest.approx(relative(delta, part.factors), rel=1e-9)
    assert relative(delta, part.factors) == pytest.approx(best(delta, rank), abs=1e-6)


def test_errors_of_all_ranks_are_those_of_the_singular_values():
    delta = sparse((24, 40), 0.5)
    part = approximate(delta, rank=2)
    assert len(part.errors_by_rank) == 24
    for rank, error in enumerate(part.errors_by_rank[:-1], 1):
        assert error == pytest.approx(best(delta, rank), rel=1e-6)


@pytest.mark.parametrize("max_error", [0.5, 0.1, 0.01])
def test_the_smallest_rank_within_an_error(max_error):
    delta = sparse((24, 40))
    part = approximate(delta, max_error=max_error)
    assert part.error <= max_error
    assert best(delta, part.factors.rank - 1) > max_error


def test_a_rank_bounds_what_an_error_asks_for():
    delta = sparse((24, 40), 0.5)
    assert approximate(delta, rank=2, max_error=0.01).factors.rank == 2
    assert approximate(delta, rank=24, max_error=0.9).factors.rank < 24


def test_a_change_of_low_rank_takes_no_more():
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(24, 3, generator=generator) @ torch.randn(3, 40, generator=generator)
    part = approximate(delta, rank=16)
    assert part.factors.rank == 3
    assert part.error < 1e-6


def test_rows_and_columns_that_do_not_change_stay_zero():
    delta = torch.zeros(24, 40)
    delta[4:8, 10:30] = sparse((4, 20), 0.9)
    part = approximate(delta, rank=16)
    assert part.factors.rank == 4
    assert part.error < 1e-6
    assert not part.factors.a[:, :10].any()
    assert not part.factors.b[8:].any()


def test_both_factors_have_the_same_norms():
    part = approximate(sparse((24, 40)), rank=4)
    a, b = part.factors.a.norm(dim=1), part.factors.b.norm(dim=0)
    torch.testing.assert_close(a, b)
