"""Checks of exactness: sparse compute against dense compute with masks, in float64."""

import pytest
import torch
from sparse_case import (
    ATTENTION,
    MLP,
    batch,
    gradients,
    masked_dense,
    recorded,
    tiny_base,
    with_lora,
)

from gossamer.sparsity import SparsityPlan, sparsify

PLAN = SparsityPlan(mlp={"0-2": 0.6}, qk={"1-2": 0.5}, vo={"0": 0.3, "2": 0.5}, start=0)
BIASES = {"attention_bias": True, "mlp_bias": True}
NO_POSITIONS = {"no_rope_layers": [1, 0, 1]}


def assert_same(one, other, tolerance):
    (loss, logits, grads), (loss2, logits2, grads2) = one, other
    assert grads.keys() == grads2.keys()
    assert grads
    torch.testing.assert_close(loss, loss2, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(logits, logits2, rtol=tolerance, atol=tolerance)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, grads2[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("off", ["no shares", "before the start", "all tokens learnt"])
def test_off_is_dense(off, dtype, tolerance):
    model = with_lora(tiny_base(dtype=dtype), [*ATTENTION, "up_proj"])
    inputs = batch(padding="none" if off == "all tokens learnt" else "right")
    if off == "all tokens learnt":
        inputs["labels"] = inputs["input_ids"].clone()
    dense = gradients(model, inputs)
    plan = SparsityPlan(start=0) if off == "no shares" else PLAN.updated({"start": 0.05})
    with sparsify(model, plan, total_steps=100) as handle:
        handle.set_step(4 if off == "before the start" else 5)
        assert_same(gradients(model, inputs), dense, tolerance)
        assert handle.work_kept == 1.0


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {}),
        ("llama", BIASES),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("smollm3", NO_POSITIONS),
    ],
    ids=["llama", "llama-biases", "mistral", "qwen2", "qwen3", "smollm3"],
)
@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP, ["q_proj", "up_proj"]], ids=len)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_equals_masked_dense(family, shape, targets, padding, monkeypatch):
    model = with_lora(tiny_base(family, **shape), targets)
    inputs = batch(padding=padding)
    # The embeddings learn too, so that gradients of the layers' inputs are compared.
    model.get_input_embeddings().weight.requires_grad_()
    with recorded(monkeypatch) as chosen, sparsify(model, PLAN) as handle:
        sparse = gradients(model, inputs)
        rows = handle._pass.split.sparse
    tokens = torch.zeros(inputs["labels"].numel(), dtype=torch.bool)
    tokens[rows] = True
    assert 0 < tokens.sum() < tokens.numel()
    with masked_dense(model, chosen, tokens.view(inputs["labels"].shape)):
        assert_same(gradients(model, inputs), sparse, 1e-11)
    assert not torch.allclose(gradients(model, inputs)[1], sparse[1])


def test_undo_leaves_the_model_as_it_was():
    model = with_lora(tiny_base(), ATTENTION)
    inputs = batch()
    forwards = {n: m.__dict__.get("forward") for n, m in model.named_modules()}
    dense = gradients(model, inputs)
    handle = sparsify(model, PLAN)
    assert not torch.allclose(gradients(model, inputs)[1], dense[1])
    handle.undo()
    handle.undo()
    assert {n: m.__dict__.get("forward") for n, m in model.named_modules()} == forwards
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert_same(gradients(model, inputs), dense, 0)


def test_two_models_in_one_process_do_not_touch_each_other():
    inputs = batch()
    first, second = (with_lora(tiny_base(), ATTENTION) for _ in range(2))
    dense = gradients(second, inputs)
    with sparsify(first, PLAN):
        assert_same(gradients(second, inputs), dense, 0)
        with sparsify(second, PLAN):
            assert_same(gradients(first, inputs), gradients(second, inputs), 0)
