"""The arithmetic of SparseGrad: an exact change of basis, and a gradient cut to size."""

import pytest
import torch
from torch import nn

from gossamer.methods.sparsegrad.autograd import largest, plain, strided, transformed_linear
from gossamer.methods.sparsegrad.basis import Basis, GradientModes
from gossamer.methods.sparsegrad.layer import SparseGradLinear
from gossamer.methods.sparsegrad.optimizer import SparseGradAdam

OUT, IN, TOKENS = 10, 14, 9


def orthogonal(size, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=dtype, generator=generator)).Q


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, IN, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(OUT, IN, dtype=dtype, generator=generator)
    g = torch.randn(3, 3, OUT, dtype=dtype, generator=generator)
    return x, weight, orthogonal(IN, 1, dtype), orthogonal(OUT, 2, dtype), g


def a_layer(share=1.0, *, bias=True, threshold="magnitude", seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(IN, OUT, bias=bias)
    basis = Basis(orthogonal(IN, 1), orthogonal(OUT, 2))
    count = round(share * OUT * IN)
    return linear.requires_grad_(False), SparseGradLinear(linear, basis, plain(count, threshold))


def test_the_basis_changes_nothing():
    x, weight, u, v, g = case()
    inside = v.T @ weight @ u.T
    assert torch.allclose(v @ inside @ u, weight, atol=1e-12, rtol=0)
    marker = torch.zeros(1, dtype=x.dtype, requires_grad=True)
    out = transformed_linear(x, inside, u, v, marker, lambda g, x: g.new_zeros(1))
    assert torch.allclose(out, x @ weight.T, atol=1e-12, rtol=0)
    out.backward(g)
    assert torch.allclose(x.grad, g @ weight, atol=1e-12, rtol=0)


def test_the_basis_changes_little_in_float32():
    linear, layer = a_layer()
    x = torch.randn(TOKENS, IN)
    assert torch.allclose(layer(x), linear(x), rtol=1e-4, atol=1e-5)
    assert torch.allclose(layer.dense_weight(), linear.weight, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_transformed_one():
    x, weight, u, v, g = case()
    seen = []

    def take(g, x):
        seen.append(g.T @ x)
        return g.new_zeros(1)

    marker = torch.zeros(1, dtype=x.dtype, requires_grad=True)
    transformed_linear(x, v.T @ weight @ u.T, u, v, marker, take).backward(g)
    dense = g.flatten(0, 1).T @ x.detach().flatten(0, 1)
    assert torch.allclose(seen[0], v.T @ dense @ u.T, atol=1e-12, rtol=0)


def test_all_entries_and_sgd_are_dense_sgd():
    linear, layer = a_layer()
    linear.weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        x = torch.randn(TOKENS, IN, generator=generator)
        linear(x).square().sum().backward()
        layer(x).square().sum().backward()
        with torch.no_grad():
            linear.weight -= 1e-3 * linear.weight.grad
            entries = layer.gradient()
            layer.weight.view(-1)[entries.places] -= 1e-3 * entries.values
        linear.weight.grad = None
        layer.forget_gradient()
    assert torch.allclose(layer.dense_weight(), linear.weight, atol=1e-5)


def test_exactly_the_largest_entries_stay():
    generator = torch.Generator().manual_seed(0)
    for rows, count in [(40, 1), (40, 12), (40, 1200), (900, 270), (900, 26999)]:
        gradient = torch.randn(rows, 30, generator=generator)
        places, values = largest(gradient, count, "magnitude")
        assert len(places) == len(places.unique()) == count
        assert torch.equal(values, gradient.flatten()[places])
        left = gradient.flatten().clone()
        left[places] = 0
        assert left.abs().max() <= values.abs().min()


def test_the_released_threshold_keeps_about_twice_as_many():
    gradient = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    places, values = largest(gradient, 1200, "signed")
    assert 2200 < len(places) < 2600
    bound = gradient.flatten().sort(descending=True).values[1199]
    assert torch.equal(places, (gradient.flatten().abs() >= bound).nonzero().flatten())
    assert torch.equal(values, gradient.flatten()[places])


def planted(slices=20):
    """Gradients that live in two rows and three columns of a hidden basis."""
    left, right = orthogonal(OUT, 5, torch.float32), orthogonal(IN, 6, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for _ in range(slices):
        core = 0.01 * torch.randn(OUT, IN, generator=generator)
        core[:2, :3] += torch.randn(2, 3, generator=generator)
        yield left @ core @ right.T


def test_the_basis_is_orthogonal_and_gathers_the_gradient():
    modes = GradientModes(OUT, IN, torch.device("cpu"))
    for gradient in planted():
        modes.add(gradient)
    basis = modes.basis()
    for matrix in (basis.u, basis.v):
        assert (matrix @ matrix.T - torch.eye(len(matrix))).norm() < 1e-5
    for gradient in planted():
        squares = (basis.v.T @ gradient @ basis.u.T).square()
        assert squares[:2, :3].sum() / squares.sum() > 0.99


def test_the_basis_is_that_of_the_stacked_gradients():
    stack = torch.stack(list(planted(7))).double()
    modes = GradientModes(OUT, IN, torch.device("cpu"))
    for gradient in stack:
        modes.add(gradient)
    left = torch.linalg.svd(stack.permute(1, 0, 2).reshape(OUT, -1), full_matrices=False).U
    found = modes.basis().v.double()
    # Of the strongest, whose directions are far apart; up to their sign.
    assert torch.allclose((left[:, :2].T @ found[:, :2]).abs(), torch.eye(2).double(), atol=1e-4)


def test_entries_never_chosen_stay_bit_identical():
    _, layer = a_layer(share=0.05)
    before, touched = layer.weight.detach().clone(), torch.zeros(OUT * IN, dtype=torch.bool)
    optimizer = SparseGradAdam(layer, lr=1e-2, weight_decay=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        layer(torch.randn(TOKENS, IN, generator=generator)).square().sum().backward()
        touched[layer.gradient().places] = True
        optimizer.step()
        optimizer.zero_grad()
    same = layer.weight.detach() == before
    assert 0 < touched.sum() < OUT * IN
    assert torch.equal(same.flatten(), ~touched)


def test_the_optimizer_is_sparse_adam_and_adamw():
    _, layer = a_layer(share=0.2, bias=False)
    head = nn.Linear(OUT, 3)
    model = nn.Sequential(layer, head)
    twin, twin_head = nn.Parameter(layer.weight.detach().clone()), nn.Linear(OUT, 3)
    twin_head.load_state_dict(head.state_dict())
    ours = SparseGradAdam(model, lr=1e-2, weight_decay=0.1)
    sparse = torch.optim.SparseAdam([twin], lr=1e-2)
    dense = torch.optim.AdamW(twin_head.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        model(torch.randn(TOKENS, IN)).square().sum().backward()
        places, values = layer.gradient()
        where = torch.stack([places // IN, places % IN])
        twin.grad = torch.sparse_coo_tensor(where, values, (OUT, IN), check_invariants=True)
        for theirs, mine in zip(twin_head.parameters(), head.parameters(), strict=True):
            theirs.grad = mine.grad.clone()
        for optimizer in (ours, sparse, dense):
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(layer.weight, twin, atol=1e-7)
    for theirs, mine in zip(twin_head.parameters(), head.parameters(), strict=True):
        assert torch.allclose(theirs, mine, atol=1e-7)


def test_clipping_sees_the_true_norm_and_scales_the_entries():
    _, layer = a_layer(share=0.2)
    x = torch.randn(TOKENS, IN)
    for part in (x[:4], x[4:]):
        layer(part).square().sum().backward()
    whole = layer.gradient()
    norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
    assert torch.allclose(norm, whole.values.norm())
    clipped = layer.gradient()
    assert torch.equal(clipped.places, whole.places)
    assert torch.allclose(clipped.values, whole.values * 0.5 / norm, rtol=1e-4)


def test_micro_batches_add_up():
    _, layer = a_layer(share=1.0)
    x = torch.randn(TOKENS, IN)
    layer(x).square().sum().backward()
    joint = layer.gradient()
    layer.zero_grad()
    for part in (x[:4], x[4:]):
        layer(part).square().sum().backward()
    assert torch.equal(layer.gradient().places, joint.places)
    assert torch.allclose(layer.gradient().values, joint.values, atol=1e-4)


def test_of_several_micro_batches_no_more_entries_stay_than_of_one():
    _, layer = a_layer(share=0.1)
    x = torch.randn(TOKENS, IN)
    for part in (x[:4], x[4:]):
        layer(part).square().sum().backward()
    count = round(0.1 * OUT * IN)
    together = layer.pending
    assert len(together.places) > count, "the parts have other largest entries"
    kept = layer.gradient()
    assert len(kept.places) == count
    assert bool((kept.places.diff() > 0).all())
    smallest = kept.values.abs().min()
    left_out = ~torch.isin(together.places, kept.places)
    assert bool((together.values[left_out].abs() <= smallest * 1.0001).all())
    layer.zero_grad()
    layer.forget_gradient()
    layer(x).square().sum().backward()
    assert len(layer.gradient().places) == count


@pytest.mark.parametrize("energy", [1.0, 0.9])
def test_the_strided_product_finds_what_the_plain_one_does(energy):
    generator = torch.Generator().manual_seed(0)
    g, x = torch.zeros(TOKENS, OUT), torch.zeros(TOKENS, IN)
    g[:, [1, 7]] = torch.randn(TOKENS, 2, generator=generator)
    x[:, [0, 3, 11]] = torch.randn(TOKENS, 3, generator=generator)
    if energy < 1:
        g += 1e-4 * torch.randn(TOKENS, OUT, generator=generator)
        x += 1e-4 * torch.randn(TOKENS, IN, generator=generator)
    one, other = plain(6, "magnitude")(g, x), strided(6, "magnitude", energy)(g, x)
    assert torch.equal(one.places, other.places)
    assert torch.allclose(one.values, other.values, atol=1e-6)
