"""The density loss of one layer against its equation, and the measured density by hand."""

import pytest
import torch

from gossamer.training.density.soft_count import dense_share, soft_count

EPSILON = 1e-7


@pytest.fixture
def a():
    """Activations [2, 3, 5] in float64, of sizes around sqrt(epsilon)."""
    generator = torch.Generator().manual_seed(0)
    values = 1e-3 * torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    return values.requires_grad_()


@pytest.fixture
def tokens():
    return torch.tensor([[True, True, True], [True, False, False]])


def test_it_is_the_mean_of_the_formula_over_what_is_no_padding(a, tokens):
    elements = [
        a[row, token, channel].item()
        for row, token in tokens.nonzero().tolist()
        for channel in range(5)
    ]
    expected = sum(x**2 / (x**2 + EPSILON) for x in elements) / len(elements)
    assert soft_count(a, tokens, EPSILON).item() == pytest.approx(expected, rel=1e-12)


def test_it_is_0_without_activations_and_1_with_large_ones(tokens):
    assert soft_count(torch.zeros(2, 3, 5), tokens, EPSILON).item() == 0
    assert soft_count(torch.full((2, 3, 5), 10.0), tokens, EPSILON).item() == pytest.approx(1)


def test_the_gradient_is_that_of_the_formula(a, tokens):
    soft_count(a, tokens, EPSILON).backward()
    x = a.detach()
    expected = 2 * x * EPSILON / (x**2 + EPSILON) ** 2 / (4 * 5) * tokens[:, :, None]
    torch.testing.assert_close(a.grad, expected, rtol=1e-12, atol=0)
    a.grad = None
    assert torch.autograd.gradcheck(lambda a: soft_count(a, tokens, 1e-6), (a,), eps=1e-7)


def test_the_gradient_is_largest_at_the_root_of_a_third_of_epsilon(tokens):
    sizes = torch.logspace(-5, 0, 2001, dtype=torch.float64).view(1, -1, 1).requires_grad_()
    soft_count(sizes, torch.ones(1, 2001, dtype=torch.bool), EPSILON).backward()
    assert sizes[0, sizes.grad.argmax()].item() == pytest.approx((EPSILON / 3) ** 0.5, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(a, tokens, dtype):
    short = a.detach().to(dtype).requires_grad_()
    exact = short.detach().double().requires_grad_()
    value, expected = (soft_count(x, tokens, EPSILON) for x in (short, exact))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(short.grad.double(), exact.grad, rtol=1e-2, atol=0)


def test_nothing_but_the_activations_is_kept_for_the_backward_pass(a, tokens):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        soft_count(a, tokens, EPSILON)
    assert {t.data_ptr() for t in kept} == {a.data_ptr(), tokens.data_ptr()}


def test_the_density_is_the_share_above_the_threshold_without_padding():
    a = torch.tensor([[[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.3, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    tokens = torch.tensor([[True, True, False]])
    assert dense_share(a, tokens, 0.0).item() == 3 / 8
    assert dense_share(a, tokens, 0.5).item() == 2 / 8
    assert dense_share(a, torch.zeros(1, 3, dtype=torch.bool), 0.0).item() == 0
