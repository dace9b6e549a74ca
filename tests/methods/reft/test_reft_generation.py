"""Generation: the prompt is edited once, in the prefill, and generated tokens never."""

import pytest
import torch
from reft_models import reft, tokens
from transformers import DynamicCache, StaticCache

from gossamer.errors import UnsupportedAdapterError, UsageError
from gossamer.methods.reft.model import ReftConfig


def padded(left=True):
    """Two prompts of 9 and 5 tokens in 9 columns."""
    ids, mask = tokens(rows=2, length=9), torch.ones(2, 9, dtype=torch.long)
    if left:
        ids[1, :4], mask[1, :4] = 2, 0
    else:
        ids[1, 5:], mask[1, 5:] = 2, 0
    return ids, mask


def positions_of(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def test_decoding_with_a_cache_equals_full_recomputation(tiny_model):
    model = reft(tiny_model)
    ids, mask = padded()
    more = tokens(rows=2, length=5, seed=9)
    cache = DynamicCache(config=model.config)
    steps = [
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions_of(mask),
            past_key_values=cache,
            use_cache=True,
        ).logits
    ]
    whole_ids, whole_mask = ids, mask
    for column in range(5):
        whole_ids = torch.cat((whole_ids, more[:, column : column + 1]), 1)
        whole_mask = torch.cat((whole_mask, torch.ones(2, 1, dtype=torch.long)), 1)
        out = model(
            input_ids=more[:, column : column + 1],
            attention_mask=whole_mask,
            position_ids=positions_of(whole_mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        steps.append(out.logits)
    with model.base_model.prompt_width(9):
        full = model(
            input_ids=whole_ids, attention_mask=whole_mask, position_ids=positions_of(whole_mask)
        ).logits
    real = whole_mask > 0
    assert torch.allclose(torch.cat(steps, 1)[real], full[real], atol=1e-4)
    # Labels say the same as the width: what follows the prompt is no prompt.
    labels = whole_ids.clone()
    labels[:, :9] = -100
    learnt = model(
        input_ids=whole_ids,
        attention_mask=whole_mask,
        position_ids=positions_of(whole_mask),
        labels=labels,
    ).logits
    assert torch.allclose(learnt[real], full[real], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_prompt_in_pieces_equals_the_whole(tiny_model, chunk):
    model = reft(tiny_model)
    ids, mask = padded()
    whole = model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)).logits
    cache = DynamicCache(config=model.config)
    parts = []
    with model.base_model.prompt_width(9):
        for start in range(0, 9, chunk):
            stop = min(9, start + chunk)
            out = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions_of(mask)[:, start:stop],
                past_key_values=cache,
                use_cache=True,
            )
            parts.append(out.logits)
    real = mask > 0
    assert torch.allclose(torch.cat(parts, 1)[real], whole[real], atol=1e-4)


@torch.no_grad()
def test_pieces_without_the_prompts_end_are_refused(tiny_model):
    model = reft(tiny_model)
    ids = tokens(rows=1, length=8)
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:, :4], past_key_values=cache, use_cache=True)
    with pytest.raises(UsageError, match="prompt_width"):
        model(input_ids=ids[:, 4:], past_key_values=cache, use_cache=True)


@torch.no_grad()
def greedy(model, ids, steps):
    """Generation without a cache: the whole row again for each token."""
    width = ids.shape[1]
    for _ in range(steps):
        with model.base_model.prompt_width(width):
            logits = model(input_ids=ids, use_cache=False).logits
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
    return ids


def generate(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    values = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **options}
    return model.generate(input_ids=ids, attention_mask=mask, **values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static", "disable_compile": True},
        {"prompt_lookup_num_tokens": 3},
    ],
)
def test_generate_equals_recomputation(tiny_model, options):
    model = reft(tiny_model)
    ids = tokens(rows=1, length=9)
    expected = greedy(model, ids, 6)
    assert torch.equal(generate(model, ids, **options), expected)
    # Through transformers as well as through PEFT.
    assert torch.equal(generate(model.get_base_model(), ids, **options), expected)
    with model.disable_adapter():
        assert not torch.equal(generate(model, ids, **options), expected)


def test_batches_and_beams(tiny_model):
    model = reft(tiny_model)
    ids, mask = padded()
    together = generate(model, ids, mask)
    assert torch.equal(together[:1], generate(model, ids[:1]))
    assert torch.equal(together[1:, 4:], generate(model, ids[1:, 4:]))
    beams = generate(model, ids, mask, num_beams=3)
    assert torch.equal(beams[:1], generate(model, ids[:1], num_beams=3))
    assert torch.equal(beams[1:, 4:], generate(model, ids[1:, 4:], num_beams=3))
    without = generate(model, ids, mask, num_beams=3, use_cache=False)
    assert torch.equal(beams, without)


def test_two_adapters_one_at_a_time(tiny_model):
    model = reft(tiny_model)
    ids = tokens()
    first = model(input_ids=ids).logits
    torch.manual_seed(5)
    config = ReftConfig(variant="direft", rank=2, first_positions=1, last_positions=1, layers=[1])
    model.add_adapter("other", config)
    assert torch.equal(model(input_ids=ids).logits, first)
    model.set_adapter("other")
    second = model(input_ids=ids).logits
    assert not torch.allclose(first, second, atol=1e-3)
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(UnsupportedAdapterError, match="cannot act together"):
        model(input_ids=ids)
    with pytest.raises(UnsupportedAdapterError, match="cannot mix"):
        model(input_ids=ids, adapter_names=["default", "other"])
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(model(input_ids=ids).logits, first)


def test_unloading_gives_the_base_back_and_merging_is_refused(tiny_model):
    model = reft(tiny_model)
    ids = tokens()
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(UnsupportedAdapterError, match="cannot be merged"):
            merge()
    plain = model.unload()
    assert torch.equal(plain(input_ids=ids).logits, base)
    assert not plain._forward_pre_hooks
    assert not plain.model._forward_pre_hooks
    assert not any(block._forward_hooks for block in plain.model.layers)
    assert "generate" not in plain.__dict__


def test_a_static_cache_by_hand(tiny_model):
    model = reft(tiny_model)
    ids = tokens(rows=1, length=9)
    cache = StaticCache(config=model.config, max_cache_len=32)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        cached = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    assert torch.allclose(whole, cached, atol=1e-4)
