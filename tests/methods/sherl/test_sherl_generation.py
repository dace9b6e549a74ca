"""SHERL with caches, padding, half precision and other adapters: each token on its own."""

import pytest
import torch
from method_helpers import IDS, LABELS, base_folder, base_model
from peft import PeftModel, get_peft_model
from sherl_case import sherl, side_of, tokens
from transformers import DynamicCache

from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.sherl.model import SherlConfig

SETTINGS = [{}, {"late_layers": 0}, {"late_layers": 2, "skip": "gated"}, {"form": "layer_norm"}]


def padded(side):
    ids, mask = tokens(length=9), torch.ones(2, 9, dtype=torch.long)
    place = slice(None, 4) if side == "left" else slice(5, None)
    ids[1, place], mask[1, place] = 2, 0
    return ids, mask


def positions_of(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_changes_nothing(settings, padding):
    model = sherl(**settings)
    ids, mask = padded(padding)
    whole = model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)).logits
    for row in range(2):
        alone = model(input_ids=ids[row : row + 1, mask[row] > 0]).logits[0]
        assert torch.allclose(whole[row][mask[row] > 0], alone, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_cache_equals_recomputation(padding, chunk):
    model = sherl(skip="gated")
    ids, mask = padded(padding)
    more = tokens(rows=2, length=4, seed=9)
    ids, mask = torch.cat((ids, more), 1), torch.cat((mask, torch.ones_like(more)), 1)
    places = positions_of(mask)
    whole = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits
    cache, parts = DynamicCache(config=model.config), []
    for start in range(0, ids.shape[1], chunk):
        piece = slice(start, start + chunk)
        out = model(
            input_ids=ids[:, piece],
            attention_mask=mask[:, : start + chunk],
            position_ids=places[:, piece],
            past_key_values=cache,
            use_cache=True,
        )
        parts.append(out.logits)
    real = mask > 0
    assert torch.allclose(torch.cat(parts, 1)[real], whole[real], atol=1e-4)


def greedy(model, ids, steps):
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
    return ids


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_generate_equals_recomputation(settings):
    model = sherl(**settings)
    ids = tokens(rows=1, length=9)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options["attention_mask"] = torch.ones_like(ids)
    expected = greedy(model, ids, 6)
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        found = model.generate(input_ids=ids, disable_compile=True, **options, **more)
        assert torch.equal(found, expected), more
    with model.disable_adapter():
        assert not torch.equal(model.generate(input_ids=ids, **options), expected)


def test_a_batch_generates_what_its_rows_do_alone():
    model = sherl()
    ids, mask = padded("left")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    together = model.generate(input_ids=ids, attention_mask=mask, **options)
    for row in range(2):
        alone = ids[row : row + 1, mask[row] > 0]
        found = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), **options)
        assert torch.equal(found[0, alone.shape[1] :], together[row, ids.shape[1] :])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_and_weights_are_in_float32(dtype, monkeypatch):
    """Under autocast, and where everything is in half precision."""
    seen = []

    def watch(features, guide, attend, bias):
        seen.append({t.dtype for t in (features, guide, attend, bias)})
        seen.append(torch.is_autocast_enabled("cpu"))
        return aggregate(features, guide, attend, bias)

    from gossamer.kernels.trained_parts.side_equations import aggregate

    monkeypatch.setattr("gossamer.methods.sherl.side.aggregate", watch)
    model = sherl(skip="gated")
    expected = model(input_ids=IDS).logits
    with torch.autocast("cpu", dtype):
        half = model(input_ids=IDS).logits.float()
    assert (half - expected).abs().mean() < 0.05 * expected.std()
    whole = model.to(dtype)(input_ids=IDS, labels=LABELS)
    assert (whole.logits.float() - expected).abs().mean() < 0.05 * expected.std()
    whole.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert seen == [{torch.float32}, False] * 3


def test_adapters_with_other_late_layers_take_turns(tmp_path):
    model = sherl(late_layers=1)
    first = model(input_ids=IDS).logits
    torch.manual_seed(5)
    model.add_adapter("deep", SherlConfig(late_layers=0, skip="gated", taps=2))
    assert torch.equal(model(input_ids=IDS).logits, first)
    model.set_adapter("deep")
    second = model(input_ids=IDS).logits
    assert not torch.allclose(second, first, atol=1e-3)
    model.save_pretrained(tmp_path, selected_adapters=["deep"], save_embedding_layers=False)
    again = PeftModel.from_pretrained(base_model(base_folder("llama")), tmp_path / "deep")
    assert torch.equal(again(input_ids=IDS).logits, second)
    assert again.peft_config["default"].layers == [2]
    model.base_model.set_adapter(["default", "deep"])
    with pytest.raises(UnsupportedAdapterError, match="cannot act together"):
        model(input_ids=IDS)
    model.set_adapter("default")
    model.delete_adapter("deep")
    assert torch.equal(model(input_ids=IDS).logits, first)


def test_unloading_gives_the_base_back_and_merging_is_refused():
    model = sherl()
    with model.disable_adapter():
        base = model(input_ids=IDS).logits
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(UnsupportedAdapterError, match="SHERL cannot be merged"):
            merge()
    plain = model.unload()
    assert torch.equal(plain(input_ids=IDS).logits, base)
    assert not [name for name, _ in plain.named_modules() if "base_layer" in name]


def test_states_are_let_go_after_each_pass():
    model = sherl()
    model(input_ids=IDS)
    _, block = side_of(model)
    assert block.tapped._states == []


def test_only_what_is_asked_for_is_read():
    model = get_peft_model(base_model(base_folder("llama")), SherlConfig(late_layers=0, layers=[1]))
    config = model.peft_config["default"]
    assert config.layers == [1, 2]
    side, block = side_of(model)
    assert block.number == 2
    assert len(side.fc1_weight) == 3
