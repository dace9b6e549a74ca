"""MEFT in use: generation with a cache, other calls of the model, and what is refused."""

import pytest
import torch
from meft_case import VARIANTS, base, gradients, largest_error, meft, tokens
from peft import get_peft_model
from test_meft_equations import plainly
from transformers import BertConfig, BertModel, DynamicCache

from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.methods.meft.model import MeftConfig


def generate(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    values = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **options}
    return model.eval().generate(input_ids=ids, attention_mask=mask, **values)


@torch.no_grad()
def greedy(model, ids, steps=6):
    """The whole row again for each token."""
    for _ in range(steps):
        logits = model.eval()(input_ids=ids, use_cache=False).logits
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
    return ids


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static", "disable_compile": True},
    ],
    ids=["cache", "no cache", "chunks", "static"],
)
def test_generation_with_a_cache_equals_recomputation(variant, options):
    model = meft(base(dtype=torch.float32), variant=variant)
    ids = tokens(rows=1)["input_ids"]
    expected = greedy(model, ids)
    assert torch.equal(generate(model, ids, **options), expected)
    with model.disable_adapter():
        assert not torch.equal(generate(model, ids, **options), expected)


def test_rows_padded_on_the_left_generate_as_alone():
    model = meft(base(dtype=torch.float32))
    batch = tokens(padding="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    found = generate(model, ids, mask)
    for row, row_mask, answer in zip(ids, mask, found, strict=True):
        assert torch.equal(answer[row_mask.argmax() :], greedy(model, row[row_mask > 0][None])[0])


@pytest.mark.parametrize("training", [True, False])
def test_a_cache_beside_gradients(training):
    """In training it stays empty, as with gradient checkpointing; else it is filled and right."""
    model, inputs = meft(), tokens()
    _, expected = gradients(model, plainly(model, inputs))
    out = model.train(training)(**inputs, use_cache=True)
    assert out.past_key_values.get_seq_length() == (0 if training else 9)
    assert largest_error(gradients(model, out.loss)[1], expected) < 1e-10
    ids = inputs["input_ids"]
    cache = DynamicCache(config=model.config)
    first = model(input_ids=ids[:, :5], past_key_values=cache).logits
    if not training:
        second = model(input_ids=ids[:, 5:], past_key_values=cache).logits
        whole = model(input_ids=ids, use_cache=False).logits
        assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-10)


def test_layers_that_are_not_reversible_are_the_base_s():
    model = meft(base(4), reversible_layers=3)
    assert len(list(model.base_model._layers())) == 3
    assert not [n for n, p in model.named_parameters() if p.requires_grad and ".layers.3." in n]
    _, found = gradients(model, model(**tokens(), use_cache=False).loss)
    _, expected = gradients(model, plainly(model, tokens()))
    assert largest_error(found, expected) < 1e-10


def test_adapters_of_different_depths_on_one_base():
    model = meft(base(4), reversible_layers=3)
    one = greedy_logits(model)
    model.add_adapter("two", MeftConfig(width=3, variant="meft3", reversible_layers=2))
    assert torch.equal(greedy_logits(model), one)
    model.set_adapter("two")
    alone = get_peft_model(base(4), MeftConfig(width=3, variant="meft3", reversible_layers=2))
    state = {
        n.replace(".two.", ".default."): p for n, p in model.named_parameters() if ".two." in n
    }
    alone.load_state_dict(state, strict=False)
    assert torch.equal(greedy_logits(model), greedy_logits(alone))
    model.set_adapter("default")
    assert torch.equal(greedy_logits(model), one)
    model.set_adapter("two")
    model.delete_adapter("default")
    plain = model.unload()
    assert torch.equal(greedy_logits(plain), greedy_logits(base(4)))
    assert not [n for n, _ in plain.named_modules() if "meft" in n or "base_layer" in n]


@torch.no_grad()
def greedy_logits(model):
    return model.eval()(**tokens(), use_cache=False).logits


def test_what_is_refused_and_why():
    model = meft()
    with pytest.raises(UnsupportedAdapterError, match="two streams instead of one hidden state"):
        model(**tokens(), output_hidden_states=True)
    with model.disable_adapter():
        assert len(model(**tokens(), output_hidden_states=True).hidden_states) == 4
    with pytest.raises(UnsupportedAdapterError, match="cannot be merged into the weights"):
        model.merge_and_unload()
    model.add_adapter("two", MeftConfig())
    model.base_model.set_adapter(["default", "two"])
    with pytest.raises(UnsupportedAdapterError, match="cannot act together"):
        model(**tokens())
    encoder = BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    with pytest.raises(UnsupportedAdapterError, match="model of type 'bert' reversible"):
        get_peft_model(BertModel(encoder), MeftConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "meft4"}, "variant 'meft4'; choose meft1 or meft2 or meft3"),
        ({"lam": 0.0}, "lam = 0.0: must be above 0"),
        ({"width": 0}, "width = 0: must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"target_modules": ["q_proj"]}, "target_modules = .*use reversible_layers"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(SettingError, match=message):
        MeftConfig(**fields)
