"""What DoRA must satisfy, on single layers in float64."""

import torch
from method_helpers import counted, double_layer, random_factors
from transformers import AutoConfig

from tiny import make_tiny_model

X = torch.randn(3, 7, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def trained():
    """(layer, W0, A, B, m, s) as if trained."""
    layer = double_layer("dora", alpha=6)
    a, b = random_factors(layer)
    magnitude = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        magnitude.mul_(torch.linspace(0.5, 2, len(magnitude), dtype=torch.float64))
    return layer, layer.get_base_layer().weight, a, b, magnitude, layer.scaling["default"]


def dense(w, a, b, magnitude, s, *, detach):
    """W' [out, in]; with `detach`, the norm is a constant of the backward pass."""
    v = w + s * b @ a
    norm = v.norm(dim=1)
    return (magnitude / (norm.detach() if detach else norm))[:, None] * v


def test_starts_as_the_base():
    layer = double_layer("dora")
    assert torch.allclose(layer(X), layer.get_base_layer()(X), rtol=0, atol=1e-12)


def test_rows_have_the_magnitude():
    layer, w, _, _, magnitude, _ = trained()
    layer.merge()
    assert torch.allclose(w.norm(dim=1), magnitude, rtol=0, atol=1e-6)


def test_the_cheap_form_is_the_dense_one():
    layer, *parts = trained()
    expected = X @ dense(*parts, detach=True).T
    assert torch.allclose(layer(X), expected, rtol=0, atol=1e-12)


def test_gradients_are_those_with_the_norm_held():
    layer, w, a, b, magnitude, s = trained()
    upstream = torch.randn(
        3, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    (layer(X) * upstream).sum().backward()
    norm = (w + s * b @ a).norm(dim=1).detach()
    scaled = (upstream * (magnitude.detach() / norm)).reshape(-1, 32)
    inner = X.reshape(-1, 48)
    assert torch.allclose(b.grad, s * scaled.T @ (inner @ a.detach().T), atol=1e-12)
    assert torch.allclose(a.grad, s * b.detach().T @ scaled.T @ inner, atol=1e-12)
    # Not held, the gradient of V' has no part along v', row by row.
    v = (w + s * b @ a).detach().requires_grad_(True)
    whole = (magnitude.detach() / v.norm(dim=1))[:, None] * v
    ((X @ whole.T) * upstream).sum().backward()
    assert ((v.grad * v).sum(dim=1).abs() < 1e-9).all()


def test_it_has_one_magnitude_a_row_more_than_lora(tmp_path):
    wide = make_tiny_model(tmp_path, hidden_size=64, num_attention_heads=8, head_dim=64)
    config = AutoConfig.from_pretrained(wide)
    one = {"target_modules": ["q_proj"], "layers": [0], "rank": 8}
    assert counted("dora", config, **one) == 4_608 + 512


def test_the_gradient_of_the_magnitude_is_the_projected_one():
    layer, w, a, b, magnitude, s = trained()
    layer(X).square().sum().backward()
    v = (w + s * b @ a).detach()
    found = magnitude.grad.clone()
    for index in (0, 5, 31):
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                magnitude[index] += step
                losses.append(layer(X).square().sum())
                magnitude[index] -= step
        slope = (losses[0] - losses[1]) / 2e-5
        assert torch.isclose(found[index], slope, rtol=1e-5)
    y = X.reshape(-1, 48)
    with torch.no_grad():
        upstream = 2 * layer(X).reshape(-1, 32)
    expected = ((upstream.T @ y) * v).sum(dim=1) / v.norm(dim=1)
    assert torch.allclose(found, expected, rtol=1e-10)
