"""What is learnt in front of the text acts at the right places: positions, masks, generation."""

import inspect

import pytest
import torch
from method_helpers import IDS, LABELS, base_folder, base_model, build, disturb, exported, with_peft
from transformers import GenerationMixin

from gossamer.basemodel.load import load_tokenizer
from gossamer.methods.soft_prompts import start_prefix_from, start_prompt_from

# PEFT says at every generation that prompt tuning counts positions itself.
pytestmark = pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")

NAMES = ["prompt_tuning", "prefix_tuning", "p_tuning"]
prefilled_once = pytest.mark.xfail(
    "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters,
    reason="PEFT 0.21's own generate puts the prompt before each token with transformers 5.24",
    strict=True,
)
FRONT = torch.tensor([30, 31, 32, 33, 34])


def with_words_in_front(name):
    """A model whose prompt or prefix is what the base computes for the tokens FRONT."""
    method, model, where = build(name, tokens=len(FRONT))
    {"prompt_tuning": start_prompt_from, "prefix_tuning": start_prefix_from}[name](model, FRONT)
    return method, model.eval(), where


@pytest.mark.parametrize("name", NAMES[:2])
def test_words_in_front_act_as_if_they_had_been_written(name):
    _, model, where = with_words_in_front(name)
    base = base_model(where.base_folder)
    whole = torch.cat([FRONT.expand(2, -1), IDS], dim=1)
    with torch.no_grad():
        expected = base(input_ids=whole).logits[:, len(FRONT) :]
        found = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    assert torch.allclose(found[:, -IDS.shape[1] :], expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_loss_counts_the_same_tokens(name):
    """Labels stay with their tokens, with padding on the right as a run pads."""
    _, model, where = with_words_in_front(name)
    base = base_model(where.base_folder)
    mask = torch.ones_like(IDS)
    mask[1, 15:] = 0
    labels = LABELS.masked_fill(mask == 0, -100)
    front = FRONT.expand(2, -1)
    expected = base(
        input_ids=torch.cat([front, IDS], dim=1),
        attention_mask=torch.cat([torch.ones_like(front), mask], dim=1),
        labels=torch.cat([torch.full_like(front, -100), labels], dim=1),
    ).loss
    found = model(input_ids=IDS, attention_mask=mask, labels=labels).loss
    assert torch.allclose(found, expected, atol=1e-5)


@prefilled_once
@pytest.mark.parametrize("name", NAMES[:2])
def test_generation_goes_on_as_if_the_words_had_been_written(name):
    _, model, where = with_words_in_front(name)
    base = base_model(where.base_folder)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    text = IDS[:1, :6]
    whole = torch.cat([FRONT[None], text], dim=1)
    expected = base.generate(whole, attention_mask=torch.ones_like(whole), **options)
    found = model.generate(input_ids=text, attention_mask=torch.ones_like(text), **options)
    assert found[0, -8:].tolist() == expected[0, -8:].tolist()


@pytest.mark.parametrize(
    "name", ["prompt_tuning", pytest.param("prefix_tuning", marks=prefilled_once), "p_tuning"]
)
def test_generation_with_the_loaded_result_is_that_of_the_whole_recomputation(name, tmp_path):
    method, model, where = build(name)
    disturb(model)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path))
    text = IDS[:1, :6]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = loaded.generate(input_ids=text, attention_mask=torch.ones_like(text), **options)
    new = found[0, -6:].tolist()
    for number, token in enumerate(new):
        so_far = torch.cat([text, torch.tensor([new[:number]], dtype=torch.long)], dim=1)
        with torch.no_grad():
            assert loaded(input_ids=so_far).logits[0, -1].argmax() == token


@pytest.mark.parametrize("name", NAMES[:2])
def test_start_text_gives_the_start(name):
    _, model, where = build(name, start_text="ab", tokens=5)
    ids = load_tokenizer(where.base_folder)("ababa", add_special_tokens=False).input_ids
    _, other, _ = build(name, tokens=5)
    {"prompt_tuning": start_prompt_from, "prefix_tuning": start_prefix_from}[name](
        other, torch.tensor(ids)
    )
    found, expected = (m.prompt_encoder["default"].embedding.weight for m in (model, other))
    assert torch.equal(found, expected)


def test_prefixes_through_a_network_keep_only_what_it_makes(tmp_path):
    """Resume needs the network, a server only the keys and values."""
    method, model, where = build("prefix_tuning", projection=7)
    disturb(model)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path))
    with torch.no_grad():
        assert torch.allclose(
            loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits, atol=1e-5
        )
    method.save(model, tmp_path, where)
    again, resumed, _ = build("prefix_tuning", projection=7, seed=5)
    again.restore(resumed, tmp_path)
    for (name, one), (_, other) in zip(
        model.named_parameters(), resumed.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_an_lstm_makes_virtual_tokens_too(tmp_path):
    method, model, where = build("p_tuning", encoder="lstm")
    disturb(model)
    loaded = with_peft(method, where, exported(method, model, where, tmp_path))
    with torch.no_grad():
        found, expected = (m.eval()(input_ids=IDS).logits for m in (loaded, model))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_other_families(name, family):
    method, model, where = build(name, model_type=family, tokens=len(FRONT))
    {"prompt_tuning": start_prompt_from, "prefix_tuning": start_prefix_from}[name](model, FRONT)
    whole = torch.cat([FRONT.expand(2, -1), IDS], dim=1)
    with torch.no_grad():
        expected = base_model(base_folder(family))(input_ids=whole).logits[:, len(FRONT) :]
        found = model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]
    assert torch.allclose(found, expected, atol=1e-4)
    assert method.kind == "prefix"
    assert where.base_folder == base_folder(family)
