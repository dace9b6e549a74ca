import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BitsAndBytesConfig

from gossamer.basemodel.files import fingerprint
from gossamer.basemodel.load import (
    load_config,
    load_model,
    load_tokenizer,
    require_chat_template,
)
from gossamer.basemodel.pruned import FAMILIES
from gossamer.basemodel.support import check_supported
from gossamer.errors import CorruptModelError, ModelNotFoundError, UnsupportedModelError

from tiny import ALL_LINEAR, make_lora, make_tiny_model, module_shapes


@pytest.fixture
def model_folder(tmp_path):
    """A model that a test may damage."""
    return make_tiny_model(tmp_path / "tiny")


def load(folder):
    return load_model(folder, dtype=torch.float32)


def edit_json(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_separate_layers(tmp_path, family):
    folder = make_tiny_model(tmp_path / family, model_type=family)
    check_supported(load_config(folder), for_serving=True)
    check_supported(load_config(folder), for_serving=False)
    model = load_model(folder, dtype=torch.bfloat16)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    # Adapters can reach each projection by itself.
    assert {name.rsplit(".", 1)[-1] for name in module_shapes(folder)} == set(ALL_LINEAR)
    ids = torch.tensor([load_tokenizer(folder).encode("hello")])
    assert torch.isfinite(model(ids).logits).all()


def test_other_causal_models_are_judged_when_they_are_loaded(tmp_path):
    folder = make_tiny_model(tmp_path / "gemma", model_type="gemma")
    config = load_config(folder)
    check_supported(config, for_serving=False)
    check_supported(config, for_serving=True)
    assert load(folder)


def test_what_is_no_language_model():
    with pytest.raises(UnsupportedModelError, match="'vit' is not a causal language model"):
        check_supported(AutoConfig.for_model("vit"), for_serving=False)


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            "'dynamic' rotary",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "'dynamic' rotary",
        ),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ],
)
def test_features_that_cannot_be_served(family, fields, said):
    with pytest.raises(UnsupportedModelError, match=said):
        check_supported(AutoConfig.for_model(family, **fields), for_serving=True)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("mistral", {"sliding_window": 64, "max_position_embeddings": 512}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
    ],
)
def test_features_that_can_be_served(family, fields):
    check_supported(AutoConfig.for_model(family, **fields), for_serving=True)


def test_missing_folder_and_missing_config(tmp_path, tiny_model):
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CorruptModelError, match=r"no config\.json"):
        load(tmp_path)
    adapter = make_lora(tmp_path / "adapter", tiny_model, rank=1)
    with pytest.raises(CorruptModelError, match="is an adapter, not a base model"):
        load(adapter)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"model_type": 3}'])
def test_broken_config(model_folder, text):
    (model_folder / "config.json").write_text(text)
    with pytest.raises(CorruptModelError, match=r"config\.json"):
        load(model_folder)


def test_impossible_config(model_folder):
    edit_json(model_folder / "config.json", num_hidden_layers="many")
    with pytest.raises(CorruptModelError, match=r"config\.json is not usable"):
        load(model_folder)


def test_unknown_architecture(model_folder):
    edit_json(model_folder / "config.json", model_type="mymodel")
    with pytest.raises(UnsupportedModelError, match="'mymodel'"):
        load(model_folder)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_weights(model_folder, keep):
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    for read in (load, fingerprint):
        with pytest.raises(CorruptModelError, match=r"model\.safetensors"):
            read(model_folder)


def test_missing_weights(model_folder):
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(CorruptModelError, match="no weights"):
        load(model_folder)
    (model_folder / "pytorch_model.bin").write_bytes(b"never unpickled")
    with pytest.raises(UnsupportedModelError, match="pickle"):
        load(model_folder)


def test_a_weight_that_the_file_lacks_is_not_made_up(model_folder):
    path = model_folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CorruptModelError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(model_folder)


def test_weights_of_another_shape(model_folder):
    edit_json(model_folder / "config.json", intermediate_size=96)
    with pytest.raises(CorruptModelError, match="cannot be loaded"):
        load(model_folder)


def test_sharded_weights(model_folder, tmp_path):
    whole = load(model_folder)
    sharded = tmp_path / "sharded"
    whole.save_pretrained(sharded, max_shard_size="60kB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    again = load(sharded)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    first = sorted(sharded.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(CorruptModelError, match=first.name):
        load(sharded)


def test_a_shard_outside_the_folder_is_refused(model_folder):
    (model_folder / "model.safetensors").rename(model_folder.parent / "outside.safetensors")
    index = {"weight_map": {"x": "../outside.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptModelError, match="outside its folder"):
        load(model_folder)


def test_missing_and_broken_tokenizer(model_folder):
    (model_folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CorruptModelError, match=r"tokenizer in .* is not usable"):
        load_tokenizer(model_folder)
    (model_folder / "tokenizer.json").unlink()
    with pytest.raises(CorruptModelError, match="has no tokenizer"):
        load_tokenizer(model_folder)


def test_chat_template(model_folder):
    require_chat_template(load_tokenizer(model_folder))
    (model_folder / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no chat template.*chat_template\.jinja"):
        require_chat_template(load_tokenizer(model_folder))


def test_loading_draws_no_progress_bars(model_folder, capfd):
    load(model_folder)
    load_tokenizer(model_folder)
    assert capfd.readouterr() == ("", "")


def test_fingerprint_tells_models_apart(tmp_path):
    one = fingerprint(make_tiny_model(tmp_path / "one", seed=1))
    same = fingerprint(make_tiny_model(tmp_path / "same", seed=1))
    other = fingerprint(make_tiny_model(tmp_path / "other", seed=2))
    tied = fingerprint(make_tiny_model(tmp_path / "tied", seed=1, tie_word_embeddings=False))
    assert one == same
    assert len({one, other, tied}) == 3


def test_fingerprint_ignores_where_and_by_what_a_model_was_saved(model_folder):
    before = fingerprint(model_folder)
    edit_json(model_folder / "config.json", transformers_version="4.0.0", use_cache=False)
    assert fingerprint(model_folder) == before
    edit_json(model_folder / "config.json", num_attention_heads=2)
    assert fingerprint(model_folder) != before


def test_a_quantised_model_keeps_its_weights_as_they_are_when_it_evaluates(
    model_folder, monkeypatch
):
    """Where the CPU has bf16 units, bitsandbytes would pack them again and round their scales."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = load_model(model_folder, dtype=torch.float32, quantization_config=config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model(torch.arange(12)[None] + 5)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
