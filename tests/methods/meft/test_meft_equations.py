"""MEFT's function of autograd against its equations under plain autograd, in float64."""

import pytest
import torch
from meft_case import (
    DOUBLE,
    VARIANTS,
    base,
    gradients,
    largest_error,
    meft,
    published,
    tokens,
    unmerged,
)
from torch.nn import functional

from gossamer.methods.meft import stack
from gossamer.methods.meft.config import anchor_spacing
from gossamer.methods.meft.coupling import reconstruction_errors, run_plainly
from gossamer.methods.meft.reversible import anchored


def logits_of(model, hidden):
    whole = model.get_base_model()
    return whole.lm_head(whole.model.norm(hidden))


def loss_of(logits, labels):
    """In float64, which transformers' own loss would leave."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def seen_layers(model, monkeypatch, **inputs):
    """The couplings that a forward pass makes, and its stream at the start."""
    seen = []

    def spy(layers, x1, x2):
        seen.append((layers, x1))
        return run_plainly(layers, x1, x2)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(stack, "run_plainly", spy)
        model.eval()(**inputs, use_cache=False)
    return seen[0]


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("residual", ["shared", "whole"])
def test_gradients_are_those_of_the_equations(variant, residual, padding):
    """Of all adapters and of the input; rows of a batch, grouped heads, padding on either side."""
    # A base in float64 leaves its streams no bits to spare: factors that cost few.
    factors = {"lam": 0.25, "beta": 0.25} if variant == "meft3" else {}
    model = meft(variant=variant, residual=residual, **factors)
    inputs = tokens(padding=padding)
    ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
    embeddings = model.get_base_model().model.embed_tokens.weight.requires_grad_()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss, found = gradients(model, loss_of(logits, labels))
    found["input"] = embeddings.grad.clone()
    logits = logits_of(model, published(model, ids, mask))
    expected_loss, expected = gradients(model, loss_of(logits, labels))
    expected["input"] = embeddings.grad.clone()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert largest_error(found, expected) < 1e-10


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "smollm3"])
def test_other_families_follow_the_equations_too(family):
    model = meft(base(family=family), variant="meft1")
    inputs = tokens(padding="left")
    loss, found = gradients(model, model(**inputs, use_cache=False).loss)
    plain, expected = gradients(model, plainly(model, inputs))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    assert largest_error(found, expected) < 1e-10


def plainly(model, inputs):
    """The loss with a graph of plain autograd: what a cache makes the layers run by."""
    run, stack.run_reversibly = stack.run_reversibly, lambda *a, anchor_every: plain(*a)

    def plain(layers, weights, x1, x2):
        return run_plainly(layers, x1, x2)

    try:
        return model(**inputs, use_cache=False).loss
    finally:
        stack.run_reversibly = run


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_float32_are_those_of_plain_autograd(variant):
    """With the default factors and anchors, over eight layers."""
    model = meft(base(8, dtype=torch.float32), variant=variant)
    inputs = tokens(padding="left")
    _, found = gradients(model, model(**inputs, use_cache=False).loss)
    _, expected = gradients(model, plainly(model, inputs))
    # What is rebuilt has the very bits, so that the gradients are the same, not only near.
    assert largest_error(found, expected) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inverse_gives_the_input_back(variant, monkeypatch):
    model = meft(base(4), variant=variant, lam=1.0, beta=1.0, residual="whole")
    layers, stream = seen_layers(model, monkeypatch, **tokens())
    errors = reconstruction_errors(layers, stream, stream + 0.1 * torch.randn_like(stream))
    assert len(errors) == 4
    assert max(errors) < 1e-8


def test_errors_grow_by_one_over_lambda_a_layer(monkeypatch):
    """Why streams are kept in float64, and anchors between."""
    model = meft(base(8), variant="meft1", lam=0.1)
    layers, stream = seen_layers(model, monkeypatch, **tokens())
    errors = reconstruction_errors(layers, stream, stream)
    assert errors[0] < 1e-13
    growth = (errors[7] / errors[1]) ** (1 / 6)
    assert 5 < growth < 50


def test_without_anchors_float32_streams_lose_the_gradients():
    narrow = {"stream_dtype": "float32", "variant": "meft1", "lam": 0.1}
    inputs, errors = tokens(), {}
    for every in (0, None):
        model = meft(base(8, dtype=torch.float32), anchor_every=every, **narrow)
        _, found = gradients(model, model(**inputs, use_cache=False).loss)
        _, expected = gradients(model, plainly(model, inputs))
        errors[every] = largest_error(found, expected)
    assert errors[None] < 1e-3
    assert errors[0] > 0.1


def test_how_far_apart_anchors_are():
    assert anchor_spacing(0.125, 1.0, "float64") == 6
    assert anchor_spacing(0.25, 1.0, "float64") == 10
    assert anchor_spacing(0.125, 1.0, "float32") == 3
    assert anchor_spacing(0.125, 0.125, "float64") == 3
    assert anchor_spacing(0.01, 0.001, "float32") == 1
    assert anchor_spacing(1.0, 1.0, "float64") == 0
    assert anchored(9, 3) == [3, 6]
    assert anchored(9, 1) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert anchored(9, 0) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_small_factors_the_carrying_stream_is_the_base(variant, monkeypatch):
    """Adapters at zero and factors near zero: one stream is the base's hidden state."""
    factors = {"meft1": (1e-9, 1.0), "meft2": (1.0, 1e-9), "meft3": (1e-9, 1e-9)}[variant]
    model = meft(base(4), variant=variant, lam=factors[0], beta=factors[1])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    inputs = tokens()
    layers, stream = seen_layers(model, monkeypatch, **inputs)
    with torch.no_grad():
        streams = run_plainly(layers, stream, stream)
        with model.disable_adapter():
            decoder = model.get_base_model().model
            hidden = []
            hook = decoder.norm.register_forward_pre_hook(lambda m, args: hidden.append(args[0]))
            model(**inputs, use_cache=False)
            hook.remove()
    carrying = streams[0] if variant == "meft2" else streams[1]
    assert torch.allclose(carrying, hidden[0], atol=1e-6)


def test_shared_residuals_keep_the_streams_as_large_as_the_base(monkeypatch):
    """Of a model that norms before its sublayers; whole ones grow by 1 + lambda a layer."""
    sizes = {}
    for residual in ("shared", "whole"):
        model = meft(base(24), residual=residual, lam=0.1, stir=0.0)
        layers, stream = seen_layers(model, monkeypatch, **tokens())
        with torch.no_grad():
            sizes[residual] = run_plainly(layers, stream, stream)[1].norm().item()
        plain, start = unmerged(model)[1], stream
        with torch.no_grad(), model.disable_adapter():
            assert len(plain) == 24
            hidden = []
            decoder = model.get_base_model().model
            hook = decoder.norm.register_forward_pre_hook(lambda m, a, h=hidden: h.append(a[0]))
            model(**tokens(), use_cache=False)
            hook.remove()
        sizes["base"] = hidden[0].norm().item()
    assert start.dtype == DOUBLE
    assert 0.8 < sizes["shared"] / sizes["base"] < 1.25
    assert sizes["whole"] / sizes["base"] > 2
