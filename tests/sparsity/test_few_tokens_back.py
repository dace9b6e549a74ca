"""A way back for few tokens: the forward pass exact, gradients against the slow, obvious way."""

import contextlib

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

from gossamer.basemodel.versions import enable_checkpointing
from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.family import decoder_layers
from gossamer.sparsity.frozen_linear import base_linear
from gossamer.sparsity.products.few_rows import tokens_back

BACK = SparsityPlan(back={"0-2": 0.7}, start=0)
SLICED = BACK.updated({"mlp": {"0-2": 0.6}, "qk": {"1": 0.5}, "vo": {"0": 0.3}})


class LargestRows(torch.autograd.Function):
    """The same going forward; back go dense tokens, and the `count` sparse ones of largest norm."""

    @staticmethod
    def forward(ctx, out, sparse, count):
        ctx.sparse, ctx.count = sparse, count
        return out.clone()

    @staticmethod
    def backward(ctx, grad):
        order = sorted(ctx.sparse.nonzero().tolist(), key=lambda at: -float(grad[tuple(at)].norm()))
        kept = grad.clone()
        for row, column in order[ctx.count :]:
            kept[row, column] = 0
        return kept, None, None


@contextlib.contextmanager
def largest_rows(model, sparse, count):
    """Each frozen product of the decoder layers, followed by `LargestRows`."""
    changed = []
    for layer in decoder_layers(model):
        for block, names in ((layer.attention, ATTENTION), (layer.mlp, MLP)):
            for name in names:
                linear, _ = base_linear(getattr(block, name), name)
                changed.append((linear, linear.__dict__.get("forward")))
                linear.forward = followed(linear.forward, sparse, count)
    yield
    for linear, own in changed:
        del linear.__dict__["forward"]
        if own is not None:
            linear.forward = own


def followed(forward, sparse, count):
    return lambda x: LargestRows.apply(forward(x), sparse, count)


def split_of(handle, inputs):
    split = handle._pass.split
    sparse = torch.zeros(inputs["labels"].numel(), dtype=torch.bool)
    sparse[split.sparse] = True
    return sparse.view(inputs["labels"].shape), tokens_back(split, 0.7)


def assert_same_gradients(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, grad in one.items():
        torch.testing.assert_close(grad, other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP, ["q_proj", "up_proj"]], ids=len)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_gradients_are_those_of_the_largest_rows(family, targets, padding):
    model = with_lora(tiny_base(family), targets)
    inputs = batch(padding=padding)
    model.get_input_embeddings().weight.requires_grad_()
    dense = gradients(model, inputs)
    with sparsify(model, BACK) as handle:
        found = gradients(model, inputs)
        sparse, count = split_of(handle, inputs)
    assert 0 < count < sparse.sum()
    with largest_rows(model, sparse, count):
        expected = gradients(model, inputs)
    torch.testing.assert_close(found[:2], dense[:2], rtol=1e-12, atol=1e-12)
    assert_same_gradients(found[2], expected[2], 1e-11)
    one = next(name for name in found[2] if "layers.0.self_attn.q_proj.lora_B" in name)
    assert not torch.allclose(found[2][one], dense[2][one])


@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
def test_together_with_slices(targets, monkeypatch):
    model = with_lora(tiny_base(), targets)
    inputs = batch()
    model.get_input_embeddings().weight.requires_grad_()
    with recorded(monkeypatch) as chosen, sparsify(model, SLICED) as handle:
        found = gradients(model, inputs)
        sparse, count = split_of(handle, inputs)
    with masked_dense(model, chosen, sparse), largest_rows(model, sparse, count):
        expected = gradients(model, inputs)
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-11, atol=1e-11)
    assert_same_gradients(found[2], expected[2], 1e-11)


def test_the_gradient_of_the_last_layer_is_whole():
    # What is left out is felt below it; the outputs' own gradients reach the top layer exactly.
    model = with_lora(tiny_base(), MLP)
    inputs = batch()
    dense = gradients(model, inputs)[2]
    with sparsify(model, BACK):
        found = gradients(model, inputs)[2]
    last = [name for name in dense if "layers.2.mlp.down_proj" in name]
    assert last
    assert_same_gradients({n: found[n] for n in last}, {n: dense[n] for n in last}, 1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_half_precision_and_with_checkpointing(checkpointing):
    model = with_lora(tiny_base(dtype=torch.bfloat16), ATTENTION)
    if checkpointing:
        model.enable_input_require_grads()
        enable_checkpointing(model, {"use_reentrant": False})
    inputs = batch()
    dense = gradients(model, inputs)
    with sparsify(model, BACK):
        found = gradients(model, inputs)
    # The adapters' branch is added with another rounding.
    torch.testing.assert_close(found[1], dense[1], rtol=0.1, atol=0.1)
    ours = torch.cat([grad.flatten() for grad in found[2].values()]).float()
    whole = torch.cat([grad.flatten() for grad in dense[2].values()]).float()
    assert ours.isfinite().all()
    assert torch.cosine_similarity(ours, whole, dim=0) > 0.5


def test_the_tokens_that_go_back_are_counted_without_padding():
    model = with_lora(tiny_base(), ATTENTION)
    with sparsify(model, BACK) as handle:
        gradients(model, batch(rows=2, length=40, outputs=4))
        split = handle._pass.split
    assert split.sparse.numel() > split.context
    assert tokens_back(split, 0.75) == round(split.context / 4)
    assert tokens_back(split, 0.99) == 1


def test_work_counts_the_products_that_are_left():
    model = with_lora(tiny_base(), ATTENTION)
    inputs = batch(padding="none")
    with sparsify(model, BACK) as handle:
        gradients(model, inputs)
        shape, kept = handle.work_shape, handle.work_kept
        share = handle.tally.sparse_tokens / handle.tally.tokens
    saved = 3 * 2 * 0.7 * shape.layer_weights
    assert kept == pytest.approx(1 - share * saved / shape.dense_work(14), abs=1e-9)
    assert handle.step_choosing_work == 0
