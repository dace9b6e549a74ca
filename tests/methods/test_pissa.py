"""What PiSSA, and FeDeRA's start, must satisfy."""

import pytest
import torch
from method_helpers import (
    base_folder,
    base_model,
    build,
    counted,
    disturb,
    double_layer,
    exported,
    fresh_base,
    logits,
    with_peft,
)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from gossamer.adapters.load import load_adapter
from gossamer.methods.pissa import START_FILE

X = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(0))
NAMES = ["pissa", "federa"]


def decomposed(rank=4, **settings):
    """(layer, W0, A, B, s) of a fresh layer with a scale that is not 1."""
    layer = double_layer("pissa", dtype=torch.float32, rank=rank, alpha=10, **settings)
    base = base_model(base_folder("llama")).get_parameter("model.layers.0.self_attn.v_proj.weight")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return layer, base.detach(), a.detach(), b.detach(), layer.scaling["default"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [4, 10])
def test_starts_as_the_base(name, alpha):
    method, model, where = build(name, alpha=alpha)
    difference = (logits(model) - logits(fresh_base(method, where))).abs().max()
    assert difference < 1e-5 * logits(model).abs().max()


def test_factors_are_the_best_approximation_and_the_base_keeps_the_rest():
    layer, base, a, b, s = decomposed()
    u, values, v = torch.linalg.svd(base)
    best = u[:, :4] * values[:4] @ v[:4]
    assert (s * b @ a - best).norm() < 1e-5 * base.norm()
    residual = layer.get_base_layer().weight.detach()
    assert torch.isclose(residual.norm() ** 2, (values[4:] ** 2).sum(), rtol=1e-5)


def test_factors_share_the_singular_values():
    _, base, a, b, s = decomposed()
    expected = torch.diag(torch.linalg.svdvals(base)[:4] / s)
    assert torch.allclose(b.T @ b, expected, atol=1e-5)
    assert torch.allclose(a @ a.T, expected, atol=1e-5)


def test_both_factors_learn_from_the_first_step():
    layer, *_ = decomposed()
    layer(X).square().sum().backward()
    assert layer.lora_A["default"].weight.grad.norm() > 1e-3
    assert layer.lora_B["default"].weight.grad.norm() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_lora_of_twice_the_rank(name, tmp_path):
    method, model, where = build(name, rank=3, alpha=8)
    still = exported(method, model, where, tmp_path)
    # Nothing learnt: the two halves cancel.
    assert torch.allclose(
        logits(with_peft(method, where, still)), logits(fresh_base(method, where)), atol=1e-5
    )
    disturb(model)
    folder = exported(method, model, where, tmp_path)
    result = load_adapter(folder)
    assert result.max_rank == 6
    assert next(iter(result.factors.values())).scale == pytest.approx(8 / 3)
    difference = (logits(with_peft(method, where, folder)) - logits(model)).abs().max()
    assert difference < 1e-5 * logits(model).abs().max()


def test_costs_what_lora_costs():
    config = AutoConfig.from_pretrained(base_folder("llama"))
    assert counted("pissa", config, rank=4) == counted("lora", config, rank=4)


def test_another_machines_decomposition_does_not_change_a_resumed_run(tmp_path):
    """Signs of singular vectors are arbitrary: what was stored counts, the base included."""
    method, model, where = build("pissa", alpha=10)
    stored = tmp_path / "checkpoint"
    stored.mkdir()
    method.save(model, stored, where)
    start = load_file(stored / START_FILE)
    # Another equally good start: the first direction left out.
    other = {name: tensor.clone() for name, tensor in start.items()}
    for name, tensor in other.items():
        (tensor[0] if name.endswith(".A") else tensor[:, 0]).mul_(0.5)
    save_file(other, stored / START_FILE)
    again, resumed, _ = build("pissa", alpha=10)
    again.restore(resumed, stored)
    path = "model.layers.1.mlp.up_proj"
    base = base_model(where.base_folder).get_parameter(f"{path}.weight")
    found = resumed.get_submodule(f"base_model.model.{path}").get_base_layer().weight
    expected = base - 2.5 * other[f"{path}.B"] @ other[f"{path}.A"]
    assert torch.allclose(found, expected, atol=1e-6)
    disturb(resumed)
    result = with_peft(again, where, exported(again, resumed, where, tmp_path))
    assert torch.allclose(logits(result), logits(resumed), atol=1e-4)


def test_the_fast_decomposition_comes_close():
    rests = [decomposed(**more)[0].get_base_layer().weight for more in ({}, {"fast_svd": 8})]
    assert rests[0].norm() < rests[1].norm() < 1.01 * rests[0].norm()
