"""What MEFT keeps for the backward pass, and what it draws and rounds again in it."""

import pytest
import torch
from meft_case import VARIANTS, base, gradients, largest_error, meft, tokens
from method_helpers import counted
from test_meft_equations import plainly
from transformers import LlamaConfig


def kept_bytes(model, inputs):
    """Bytes of different storages that autograd holds after a forward pass, weights apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, so that no other tensor gets the same address.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_kept_does_not_grow_with_depth(variant):
    inputs = tokens(rows=2, length=32)
    four, eight = (
        kept_bytes(meft(base(n, dtype=torch.float32), variant=variant, lam=1.0, beta=1.0), inputs)
        for n in (4, 8)
    )
    assert four == eight
    lora = kept_bytes(meft(base(8, dtype=torch.float32), reversible_layers=1), inputs)
    assert four < 0.5 * lora


def test_each_anchor_costs_two_streams():
    inputs = tokens(rows=2, length=32)
    never, twice = (
        kept_bytes(meft(base(6, dtype=torch.float32), anchor_every=every), inputs)
        for every in (0, 2)
    )
    stream = 2 * 32 * 48 * 8
    assert twice - never == 2 * 2 * stream


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_is_drawn_again_and_the_generator_goes_on(variant):
    """Of adapters and of attention: the same gradients, and the same numbers afterwards."""
    model = meft(base(4, attention_dropout=0.2), variant=variant, dropout=0.3, lam=0.5, beta=0.5)
    inputs, after = tokens(), []
    found = []
    for run in (lambda: model(**inputs, use_cache=False).loss, lambda: plainly(model, inputs)):
        torch.manual_seed(5)
        loss = run()
        drawn = torch.rand(3)
        found.append(gradients(model, loss))
        after.append((drawn, torch.rand(3)))
    assert found[0][0] == found[1][0]
    assert largest_error(found[0][1], found[1][1]) < 1e-10
    for one, two in zip(after[0], after[1], strict=True):
        assert torch.equal(one, two), "the backward pass uses up no random numbers"
    torch.manual_seed(6)
    assert model(**inputs, use_cache=False).loss != found[0][0]


def test_autocast_is_that_of_the_forward_pass():
    """Though the backward pass runs outside of it, as in trainers, or inside, as in scripts."""
    model, inputs = meft(base(4, dtype=torch.float32), lam=0.5), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        _, expected = gradients(model, plainly(model, inputs))
        _, inside = gradients(model, model(**inputs, use_cache=False).loss)
        loss = model(**inputs, use_cache=False).loss
    _, outside = gradients(model, loss)
    assert largest_error(inside, outside) == 0
    assert largest_error(outside, expected) < 0.02
    _, exact = gradients(model, model(**inputs, use_cache=False).loss)
    assert largest_error(outside, exact) > 1e-4, "bfloat16 was used"


def test_a_base_in_bfloat16():
    """Streams are wider than the layers, so that what is rebuilt rounds to the same numbers."""
    model, inputs = meft(base(6, dtype=torch.bfloat16), stir=0.02), tokens(padding="left")
    _, found = gradients(model, model(**inputs, use_cache=False).loss)
    _, expected = gradients(model, plainly(model, inputs))
    assert largest_error(found, expected) < 0.01


def test_gradients_accumulate():
    model = meft()
    parts = [tokens(seed=seed) for seed in (1, 2)]
    alone = [gradients(model, model(**part, use_cache=False).loss)[1] for part in parts]
    model.zero_grad()
    for part in parts:
        model(**part, use_cache=False).loss.backward()
    both = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert largest_error(both, {n: alone[0][n] + alone[1][n] for n in both}) < 1e-12


def test_two_losses_on_one_graph():
    """As preference training has them: two passes before one backward pass."""
    model, one, two = meft(), tokens(seed=1), tokens(seed=2)
    _, first = gradients(model, model(**one, use_cache=False).loss)
    _, second = gradients(model, model(**two, use_cache=False).loss)
    both = model(**one, use_cache=False).loss - 2 * model(**two, use_cache=False).loss
    _, found = gradients(model, both)
    assert largest_error(found, {n: first[n] - 2 * second[n] for n in first}) < 1e-10


def test_parameters_by_the_formula():
    """Two adapters a layer of 2 d w + w + d: 13,064 each for d = 768 and w = 8."""
    shape = LlamaConfig(hidden_size=768, intermediate_size=64, num_hidden_layers=12, vocab_size=99)
    assert counted("meft", shape, reversible_layers=12) == 12 * 2 * 13_064 == 313_536
    assert counted("meft", shape) == 10 * 2 * 13_064, "all but the last two"
