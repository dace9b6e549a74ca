"""LaMDA's equations: start, counts, gradients, what is kept for the backward pass, merging."""

import pytest
import torch
from lamda_case import disturb, lamda, layer, load, tokens
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.methods.lamda.freezing import freeze_columns, lamda_layers
from gossamer.methods.lamda.model import LamdaConfig
from gossamer.methods.lamda.spectrum import leading_part


def test_it_starts_as_the_pretrained_model(tiny_model):
    ids = tokens()
    assert torch.equal(
        lamda(tiny_model)(input_ids=ids).logits, load(tiny_model)(input_ids=ids).logits
    )
    made = layer()
    a, b, s = (made.lamda_A["default"], made.lamda_B["default"], made.lamda_S["default"])
    eye = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(a @ a.T, eye, atol=1e-10)
    assert torch.allclose(b.T @ b, eye, atol=1e-10)
    u, sigma, v = torch.linalg.svd(made.base_layer.weight, full_matrices=False)
    kept = u[:, :6] * sigma[:6] @ v[:6]
    # As published: W = residual + s B S A, with the leading part of W in B S A.
    assert torch.allclose(made.scaling["default"] * b @ s @ a, kept, atol=1e-10)


def test_autocast_rounds_nothing_away_that_was_learnt():
    made = layer(out=64, into=48, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert made.factors("default").b.count_nonzero() == 0
    with torch.no_grad():
        made.lamda_S["default"].add_(1e-4)
    exact = made.factors("default").b
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.factors("default").b, exact)


def test_the_fast_singular_vectors_span_the_same_space():
    torch.manual_seed(0)
    weight = torch.randn(120, 90) @ torch.diag(0.93 ** torch.arange(90)) @ torch.randn(90, 150)
    u, sigma, v = leading_part(weight, 12, exact=False)
    exact_u, exact_sigma, exact_v = leading_part(weight, 12, exact=True)
    assert torch.allclose(sigma, exact_sigma, rtol=1e-3)
    assert torch.linalg.matrix_norm(exact_u.T @ u, 2) == pytest.approx(1, abs=1e-4)
    assert torch.linalg.svdvals(exact_v @ v.T).min() > 0.99
    again, _, _ = leading_part(weight, 12, exact=False)
    assert torch.equal(again, u)


def test_it_has_as_many_weights_as_the_paper_says():
    made = layer(out=20, into=14, rank=6)

    def learning():
        return sum(p.numel() for p in made.parameters() if p.requires_grad)

    assert learning() == 6**2 + 20 * 6
    freeze_columns(made, "default", 2)
    assert learning() == 6**2 + 20 * 4
    freeze_columns(made, "default", 6)
    assert learning() == 6**2


def test_the_count_of_a_matrix_of_4096():
    shape = {"hidden_size": 4096, "intermediate_size": 8, "num_hidden_layers": 1}
    with torch.device("meta"):
        config = AutoConfig.for_model("llama", num_attention_heads=32, vocab_size=8, **shape)
        model = AutoModelForCausalLM.from_config(config)
        model = get_peft_model(model, LamdaConfig(rank=32, target_modules=["q_proj"]))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 32**2 + 4096 * 32
    ((made, name),) = lamda_layers(model)
    freeze_columns(made, name, 32)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1024


@pytest.mark.parametrize("frozen", [0, 2, 6])
def test_gradients_equal_dense_autograd(frozen):
    made = disturb(layer())
    freeze_columns(made, "default", frozen)
    inputs = torch.randn(3, 5, 14, dtype=torch.float64, requires_grad=True)
    output = made(inputs)
    seed = torch.randn_like(output)
    output.backward(seed)
    flat, gradient = inputs.detach().reshape(-1, 14), seed.reshape(-1, 20)
    g = gradient.T @ flat
    a, s, scale = made.lamda_A["default"], made.lamda_S["default"], made.scaling["default"]
    b = torch.cat((made.lamda_frozen["default"], made.lamda_B["default"].detach()), 1)
    assert torch.allclose(s.grad, scale * b.T @ g @ a.T, atol=1e-10)
    if frozen < 6:
        wanted = (scale * g @ a.T @ s.detach().T)[:, frozen:]
        assert torch.allclose(made.lamda_B["default"].grad, wanted, atol=1e-10)
    else:
        assert made.lamda_B["default"].grad is None
    weight = made.base_layer.weight + made.get_delta_weight("default").detach()
    assert torch.allclose(inputs.grad, seed @ weight, atol=1e-10)
    wanted = flat @ weight.T + made.base_layer.bias
    assert torch.allclose(output.reshape(-1, 20), wanted, atol=1e-10)


def test_the_wide_input_is_not_kept_for_the_backward_pass():
    made = layer(out=20, into=300, rank=6)
    inputs = torch.randn(7, 300, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append((t.untyped_storage().data_ptr(), tuple(t.shape))), t)[1], lambda t: t
    ):
        made(inputs)
    assert inputs.untyped_storage().data_ptr() not in {place for place, _ in kept}
    assert (7, 6) in {shape for _, shape in kept}


def test_merging_equals_not_merging(tiny_model):
    model = disturb(lamda(tiny_model, alpha=3.0)).eval()
    for made, name in lamda_layers(model):
        freeze_columns(made, name, 2)
    ids = tokens()
    before = model(input_ids=ids).logits
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    model.merge_adapter()
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
    model.unmerge_adapter()
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
    with model.disable_adapter():
        assert torch.allclose(model(input_ids=ids).logits, base, atol=1e-4)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-4)


def test_saved_and_loaded_with_frozen_columns(tiny_model, tmp_path):
    model = disturb(lamda(tiny_model)).eval()
    for made, name in lamda_layers(model):
        freeze_columns(made, name, 4)
    ids = tokens()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = model(input_ids=ids).logits
    for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        again = PeftModel.from_pretrained(load(tiny_model), tmp_path, **options).eval()
        assert torch.equal(again(input_ids=ids).logits, expected)
        made, name = next(iter(lamda_layers(again)))
        assert made.lamda_B[name].shape[1] == 2
    # A second adapter of another state beside it.
    again.add_adapter("other", LamdaConfig(rank=3))
    again.set_adapter("other")
    assert not torch.allclose(again(input_ids=ids).logits, expected, atol=1e-3)
    again.set_adapter("default")
    assert torch.equal(again(input_ids=ids).logits, expected)
    again.load_adapter(tmp_path, "third")
    again.set_adapter("third")
    assert torch.equal(again(input_ids=ids).logits, expected)
