"""What LoRA's gradients say of a weight's, in float64 against autograd and dense sums."""

import pytest
import torch

from gossamer.methods.loraprune import importance
from gossamer.methods.loraprune.importance import AdaptedWeight, gradient_factors, line_sums

OUT, IN, RANK, SCALE = 12, 7, 3, 1.7


def factors(rank=RANK, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return random(OUT, IN), random(rank, IN), random(OUT, rank), random(20, IN), random(20, OUT)


def learnt(w, a, b, x, wanted, scale=SCALE):
    """The weight with gradients of a loss of some batches, and the true gradient by W + s B A."""
    a, b, dense = a.requires_grad_(), b.requires_grad_(), (w + scale * b @ a).detach()
    dense.requires_grad_()
    for rows in (slice(0, 8), slice(8, 20)):
        # Two micro-batches of one step: gradients add up.
        (x[rows] @ (w + scale * b @ a).T - wanted[rows]).square().sum().backward()
        (x[rows] @ dense.T - wanted[rows]).square().sum().backward()
    return AdaptedWeight(
        weight=w, a=a.detach(), b=b.detach(), scale=scale, grad_a=a.grad, grad_b=b.grad
    ), dense.grad


def test_the_gradient_is_the_papers_identity():
    weight, true = learnt(*factors())
    left, right = gradient_factors(weight)
    a, b = weight.a, SCALE * weight.b
    expected = true @ a.T @ a + b @ b.T @ true - true @ a.T @ b.T @ true
    assert left.shape == (OUT, 2 * RANK)
    relative = (left @ right - expected).abs().max() / expected.abs().max()
    assert relative < 1e-12


def test_of_an_orthonormal_start_the_gradient_is_the_true_one():
    w, _, _, x, wanted = factors()
    a = torch.linalg.qr(torch.randn(IN, IN, dtype=torch.float64))[0]
    weight, true = learnt(w, a, torch.zeros(OUT, IN, dtype=torch.float64), x, wanted)
    left, right = gradient_factors(weight)
    assert torch.allclose(left @ right, true, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [torch.square, torch.abs])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("use_gradient", [False, True])
@pytest.mark.parametrize("entries", [1, 2 * IN, 1 << 20])
def test_sums_over_slices_are_those_of_whole_matrices(
    form, columns, use_gradient, entries, monkeypatch
):
    monkeypatch.setattr(importance, "SLICE_ENTRIES", entries)
    weight, _ = learnt(*factors())
    values = weight.weight + SCALE * weight.b @ weight.a
    if use_gradient:
        left, right = gradient_factors(weight)
        values = values * (left @ right)
    got = line_sums(weight, columns=columns, form=form, use_gradient=use_gradient)
    assert torch.allclose(got, form(values).sum(0 if columns else 1), rtol=1e-12)


def test_without_a_backward_pass_there_is_nothing_to_score():
    w, a, b, _, _ = factors()
    with pytest.raises(ValueError, match="score after a backward pass"):
        gradient_factors(AdaptedWeight(weight=w, a=a, b=b, scale=1.0))
