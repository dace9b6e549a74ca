"""Each method on a tiny model: where it starts, how much it trains, what it leaves behind."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, set_seed

from gossamer import methods
from gossamer.basemodel.load import load_model
from gossamer.errors import MissingExtraError, SettingError

from tiny import ALL_LINEAR, make_context

RANK = 4


def build(name, folder, **settings):
    method = methods.find(name).from_values(settings)
    for module in method.extra_modules:
        pytest.importorskip(module)
    where = make_context(folder)
    base = load_model(folder, dtype=torch.float32, quantization_config=method.quantization(where))
    set_seed(0)
    return method, method.prepare(base, where), where


def logits(model):
    ids = torch.arange(40).reshape(2, 20) + 5
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def disturb(model):
    """As if trained: every weight that learns moves."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def test_settings_reach_peft(tiny_model):
    _, model, _ = build(
        "lora",
        tiny_model,
        rank=8,
        alpha=16,
        dropout=0.25,
        target_modules=["q_proj", "down_proj"],
        layers=[0, 2],
        rank_pattern={"down_proj": 2},
        alpha_pattern={"down_proj": 6},
    )
    adapted = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    layers = {path.split("layers.")[1].split(".")[0] for path in adapted}
    assert layers == {"0", "2"}
    for path, module in adapted.items():
        wide = path.endswith("q_proj")
        assert module.r["default"] == (8 if wide else 2)
        assert module.scaling["default"] == (2.0 if wide else 3.0)
        assert module.lora_dropout["default"].p == 0.25


def test_the_scale_of_rslora(tiny_model):
    _, model, _ = build("rslora", tiny_model, rank=64)
    module = next(m for m in model.modules() if hasattr(m, "lora_A"))
    assert module.scaling["default"] == pytest.approx(8 / 64**0.5)


@pytest.mark.parametrize("name", ["lora", "dora", "qlora"])
def test_plain_peft_loads_what_is_saved(name, tiny_model, tmp_path):
    method, model, where = build(name, tiny_model, rank=RANK, target_modules="attention")
    disturb(model)
    method.save(model, tmp_path, where)
    base = load_model(
        tiny_model, dtype=torch.float32, quantization_config=method.quantization(where)
    )
    again = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(logits(model), logits(again))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some-name"
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["gossamer_base"] == "f" * 64
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_same_weights_give_the_same_bytes(tiny_model, tmp_path):
    for part in ("one", "two"):
        method, model, where = build("lora", tiny_model, rank=RANK)
        (tmp_path / part).mkdir()
        method.save(model, tmp_path / part, where)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_frozen_embeddings(tiny_model):
    _, model, _ = build("full", tiny_model, train_embeddings=False)
    assert not model.get_input_embeddings().weight.requires_grad


def test_full_leaves_a_model_that_transformers_loads(tiny_model, tmp_path):
    method, model, where = build("full", tiny_model)
    disturb(model)
    method.save(model, tmp_path, where)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(model), logits(again))
    assert (tmp_path / "tokenizer.json").is_file()


def test_qlora_has_a_4bit_base_and_gradients_reach_the_adapter_on_a_cpu(tiny_model):
    _, model, _ = build("qlora", tiny_model, rank=RANK)
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    # Three decoder layers; PEFT's wrapper bears the same name as what it wraps.
    assert len([m for m in layers if not hasattr(m, "lora_A")]) == 3 * len(ALL_LINEAR)
    ids = torch.arange(20).reshape(1, 20) + 5
    model.train()(input_ids=ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            assert parameter.grad.abs().sum() > 0, name
        assert parameter.requires_grad == ("lora_" in name)


def test_qlora_says_what_to_install(monkeypatch, tiny_model):
    monkeypatch.setattr("gossamer.methods.common.method.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[qlora\]'"):
        methods.find("qlora").from_values({}).check(make_context(tiny_model))


def test_qlora_refuses_devices_without_kernels(tiny_model):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(SettingError, match="cannot run on 'mps'"):
        methods.find("qlora").from_values({}).check(make_context(tiny_model, device="mps"))
