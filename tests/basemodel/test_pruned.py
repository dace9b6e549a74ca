"""Configs and models whose layers have widths of their own."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gossamer.basemodel.load import load_config, load_model
from gossamer.basemodel.pruned import (
    LayerWidths,
    config_of_widths,
    family_of,
    is_pruned,
    register,
    widths_of,
)
from gossamer.errors import CorruptModelError, UnsupportedModelError

from tiny import SHAPE, make_tiny_model

WIDTHS = {"layer_key_value_heads": [2, 1, 2], "layer_intermediate_sizes": [57, 100, 80]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    register("pruned_llama")
    return make_tiny_model(
        tmp_path_factory.mktemp("pruned") / "m", model_type="pruned_llama", **WIDTHS
    )


def plain():
    return LlamaConfig(vocab_size=259, **SHAPE)


def test_widths_of_a_usual_model_are_alike():
    widths = widths_of(plain())
    assert widths == LayerWidths(kv_heads=(2, 2, 2), channels=(100, 100, 100))
    assert widths.are_alike
    assert not is_pruned(plain())


def test_a_model_comes_back_from_its_folder(folder):
    config = load_config(folder)
    assert is_pruned(config)
    assert family_of(config.model_type) == "llama"
    assert widths_of(config) == LayerWidths(kv_heads=(2, 1, 2), channels=(57, 100, 80))
    model = load_model(folder, dtype=torch.float32)
    layers = model.model.layers
    assert [layer.mlp.down_proj.in_features for layer in layers] == [57, 100, 80]
    assert [layer.self_attn.k_proj.out_features for layer in layers] == [32, 16, 32]
    assert [layer.self_attn.q_proj.out_features for layer in layers] == [64, 32, 64]
    assert type(layers[0]).__name__ == type(layers[1]).__name__ == "LlamaDecoderLayer"
    assert json.loads((folder / "config.json").read_text())["architectures"] == [
        "PrunedLlamaForCausalLM"
    ]


def test_all_layers_attend_as_the_model_is_told(folder):
    model = load_model(folder, dtype=torch.float32)
    ids = torch.arange(20)[None]
    expected = model(ids).logits
    model.set_attn_implementation("eager")
    assert model(ids, output_attentions=True).attentions[0] is not None
    assert torch.allclose(model(ids).logits, expected, atol=1e-4)


def test_it_generates_with_a_cache_as_without(folder):
    model = load_model(folder, dtype=torch.float32)
    ids = torch.arange(5)[None] + 5
    cached, plain = (
        model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=use, eos_token_id=[])
        for use in (True, False)
    )
    assert torch.equal(cached, plain)


def test_alike_layers_are_the_familys_own_config():
    config = config_of_widths(plain(), LayerWidths(kv_heads=(1,) * 3, channels=(64,) * 3))
    assert type(config) is LlamaConfig
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 16)
    model = AutoModelForCausalLM.from_config(config)
    assert model.model.layers[0].self_attn.o_proj.weight.shape == (48, 32)


def test_numbers_of_heads_that_llama_refuses_are_a_config_of_ours(tmp_path):
    """Its hidden size must be a multiple of the heads, though their width is given."""
    shape = {**SHAPE, "num_attention_heads": 6, "num_key_value_heads": 6}
    config = LlamaConfig(vocab_size=259, **shape)
    cut = config_of_widths(config, LayerWidths(kv_heads=(5,) * 3, channels=(100,) * 3))
    assert is_pruned(cut)
    model = AutoModelForCausalLM.from_config(cut)
    expected = model(torch.arange(4)[None]).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(
        load_model(tmp_path, dtype=torch.float32)(torch.arange(4)[None]).logits, expected
    )


@pytest.mark.parametrize("values", [[2, 1], [2, 0, 2], "212", None])
def test_lists_that_fit_no_layers_are_refused(folder, tmp_path, values):
    config = json.loads((folder / "config.json").read_text())
    config["layer_key_value_heads"] = values
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptModelError, match="layer_key_value_heads must give a whole number"):
        load_config(tmp_path)


def test_a_family_of_which_there_are_none_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "pruned_gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="no pruned models of architecture 'gpt2'"):
        load_config(tmp_path)
