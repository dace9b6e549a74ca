"""What VeLoRA must satisfy, on single layers in float64."""

import copy

import pytest
import torch
from method_helpers import build, double_layer, gradients
from peft import PeftModel
from safetensors import safe_open

GROUPS, SIZE = 6, 8
X = torch.randn(3, 7, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3
UPSTREAM = torch.randn(3, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pair(**settings):
    """(layer with VeLoRA, the same with LoRA) in training mode, B not zero."""
    layers = [
        double_layer("velora", **{"groups": GROUPS, "gradient_scale": 0.5, **settings}),
        double_layer("lora"),
    ]
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(layers[1].lora_A["default"].weight.shape, generator=generator).double()
    b = torch.randn(layers[1].lora_B["default"].weight.shape, generator=generator).double()
    for layer in layers:
        layer.train()
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    return layers


def backward(layer, inputs=X):
    """(output, dX, dA, dB)"""
    x = inputs.clone().requires_grad_(True)
    output = layer(x)
    output.backward(UPSTREAM)
    return output, x.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad


def test_output_and_input_gradient_are_exact():
    velora, lora = (backward(layer) for layer in pair())
    for part in (0, 1, 3):
        assert torch.allclose(velora[part], lora[part], rtol=0, atol=1e-12)
    assert not torch.allclose(velora[2], lora[2], atol=1e-3)


def test_the_gradient_is_projected_group_by_group():
    velora, lora = pair()
    _, _, found, _ = backward(velora)
    _, _, exact, _ = backward(lora)
    v = velora.lora_velora_embed["default"]
    projection = torch.block_diag(*[torch.outer(v, v)] * GROUPS)
    assert torch.allclose(found, 0.5 * exact @ projection, rtol=0, atol=1e-12)


def test_groups_of_one_are_exact():
    velora, lora = pair(groups=48, gradient_scale=1.0)
    assert torch.allclose(backward(velora)[2], backward(lora)[2], rtol=0, atol=1e-12)


def test_inputs_along_the_direction_are_exact():
    velora, lora = pair(gradient_scale=1.0)
    direction = torch.linspace(0.2, 1, SIZE, dtype=torch.float64)
    lengths = torch.rand(3, 7, GROUPS, 1, dtype=torch.float64)
    inputs = (lengths * direction).reshape(3, 7, 48)
    # The direction is kept in float32's digits.
    assert torch.allclose(backward(velora, inputs)[2], backward(lora, inputs)[2], rtol=1e-6)


def test_what_is_kept_for_the_backward_pass():
    """D / M numbers a token instead of D, with nothing else in need of the input."""
    kept = []
    for layer in pair():
        layer.get_base_layer().weight.requires_grad_(False)
        sizes: dict[int, int] = {}

        def note(tensor, sizes=sizes):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = layer(X)
        weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        if hasattr(layer, "lora_velora_embed"):
            weights.add(layer.lora_velora_embed["default"].untyped_storage().data_ptr())
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
        assert output.shape == (3, 7, 32)
    rank, tokens = 4, 21
    assert kept[0] == tokens * (GROUPS + rank)
    assert kept[1] == tokens * (48 + rank)


def test_the_direction_is_of_the_first_batch(tmp_path):
    layer, _ = pair()
    assert not layer.lora_velora_embed["default"].any()
    layer(X)
    first = layer.lora_velora_embed["default"].clone()
    mean = X.reshape(-1, SIZE).mean(dim=0)
    assert first.norm() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(first, mean / mean.norm(), atol=1e-6)
    layer(-3 * X.flip(-1))
    assert torch.equal(layer.lora_velora_embed["default"], first)


def directions(model):
    return {n: b.clone() for n, b in model.named_buffers() if "lora_velora_embed" in n}


def test_a_checkpoint_keeps_the_direction(tmp_path):
    """PEFT alone would choose it anew in the first batch after loading."""
    method, model, where = build("velora")
    gradients(model)
    chosen = directions(model)
    assert len(chosen) == 6
    method.save(model, tmp_path, where)
    again, resumed, _ = build("velora")
    again.restore(resumed, tmp_path)
    with torch.no_grad():
        for parameter in resumed.get_input_embeddings().parameters():
            parameter.add_(0.5)
    gradients(resumed)
    assert all(torch.equal(chosen[n], d) for n, d in directions(resumed).items())


def test_only_the_named_layers_are_compressed_and_the_result_is_plain_lora(tmp_path):
    method, model, where = build("velora", compressed_modules=["down_proj"])
    assert {n.split(".")[-3] for n in directions(model)} == {"down_proj"}
    result = tmp_path / "result"
    result.mkdir()
    method.export(model, result, where)
    with safe_open(result / "adapter_model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "velora" in key]  # noqa: SIM118
    assert "velora" not in (result / "adapter_config.json").read_text()
    assert isinstance(model, PeftModel)
    assert copy.deepcopy(model) is not None
