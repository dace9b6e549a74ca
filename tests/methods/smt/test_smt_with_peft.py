"""SMT through PEFT and TRL: train, save, load, merge, switch, convert."""

import json

import pytest
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel, convert_to_lora, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from gossamer.basemodel.load import load_model
from gossamer.basemodel.versions import checkpointing_argument, enable_checkpointing
from gossamer.errors import AdapterFormatError, SettingError, UnsupportedAdapterError
from gossamer.methods.smt.blocks import Block
from gossamer.methods.smt.layer import SmtLinear
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import select_blocks
from gossamer.methods.smt.settings import SmtSettings

from tiny import make_tiny_model

IDS = torch.arange(40).reshape(2, 20) + 5
SETTINGS = SmtSettings(block_size=8, attention_ratio=0.02, mlp_ratio=0.02)
# Adapters are saved without asking a hub about the vocabulary.
OFFLINE = {"save_embedding_layers": False}


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **options})


def chosen(folder, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 250, (2, 12), generator=generator)
    return select_blocks(load(folder), [{"input_ids": ids, "labels": ids}], SETTINGS)


def moved(model, seed=1, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def model(tiny_model):
    return get_peft_model(load(tiny_model), SmtConfig(blocks=chosen(tiny_model)))


def test_starts_as_the_base_and_only_the_blocks_learn(model, tiny_model):
    assert torch.equal(logits(model), logits(load(tiny_model)))
    blocks = chosen(tiny_model)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"base_model.model.{p}.smt_values.default" for p in blocks}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == sum(b.size for each in blocks.values() for b in each)


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": True}, {"is_trainable": True}])
def test_saved_and_loaded_by_plain_peft(model, tiny_model, tmp_path, options):
    moved(model).save_pretrained(tmp_path, **OFFLINE)
    again = PeftModel.from_pretrained(load(tiny_model), tmp_path, **options)
    assert torch.equal(logits(again), logits(model))
    trainable = sum(p.numel() for p in again.parameters() if p.requires_grad)
    expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == (expected if options.get("is_trainable") else 0)
    into_base = load(tiny_model)
    into_base.load_adapter(tmp_path)
    assert torch.equal(logits(into_base), logits(model))


def test_what_is_stored_is_the_agreed_format(model, tiny_model, tmp_path):
    moved(model).save_pretrained(tmp_path, **OFFLINE)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "GOSSAMER_SMT"
    assert "blocks" not in config
    weights = load_file(tmp_path / "adapter_model.safetensors")
    merged = model.merge_and_unload()
    base = load(tiny_model)
    for path in chosen(tiny_model):
        table = weights.pop(f"base_model.model.{path}.smt_blocks")
        values = weights.pop(f"base_model.model.{path}.smt_values")
        assert table.dtype == torch.int32
        weight = base.get_submodule(path).weight.data
        for i, j, h, w in table.tolist():
            weight[i : i + h, j : j + w] += values[: h * w].view(h, w)
            values = values[h * w :]
        assert values.numel() == 0
        assert torch.equal(weight, merged.get_submodule(path).weight)
    assert not weights


def test_merge_and_unmerge(model, tiny_model):
    before = {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    apart = logits(moved(model))
    model.merge_adapter()
    assert torch.allclose(logits(model), apart, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(logits(model), apart)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in before.items()), "bit by bit"
    merged = model.merge_and_unload(safe_merge=True)
    assert not any(isinstance(m, SmtLinear) for m in merged.modules())
    assert torch.allclose(logits(merged), apart, atol=1e-4)


def test_a_merged_adapter_can_be_disabled(model, tiny_model):
    moved(model).merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load(tiny_model)))


def test_safe_merge_refuses_what_is_not_finite(model):
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)


def test_several_adapters(model, tiny_model, tmp_path):
    one = logits(moved(model))
    other = SmtConfig(blocks=chosen(tiny_model, seed=5))
    model.add_adapter("other", other)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.endswith(".default") for name in learning)
    model.set_adapter("other")
    assert torch.equal(logits(model), logits(load(tiny_model)))
    two = logits(moved(model, seed=2))
    model.set_adapter("default")
    assert torch.equal(logits(model), one)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not torch.allclose(both, one, atol=1e-3)
    model.merge_adapter(["default", "other"])
    assert torch.allclose(logits(model), both, atol=1e-4)
    model.unmerge_adapter()
    model.save_pretrained(tmp_path, **OFFLINE)
    again = PeftModel.from_pretrained(load(tiny_model), tmp_path)
    again.load_adapter(tmp_path / "other", adapter_name="other")
    assert torch.equal(logits(again), one)
    again.set_adapter("other")
    assert torch.equal(logits(again), two)
    again.set_adapter("default")
    again.delete_adapter("other")
    assert torch.equal(logits(again), one)


def test_rows_of_different_adapters_are_refused(model):
    with pytest.raises(UnsupportedAdapterError, match="cannot mix adapters"):
        model(input_ids=IDS, adapter_names=["default", "default"])


def test_converted_to_lora(model):
    apart = logits(moved(model, size=0.05))
    config, weights = convert_to_lora(model, rank=32)
    assert config.r == 32
    assert weights
    delta = model.base_model.model.model.layers[0].self_attn
    paths = [n for n, m in delta.named_modules() if isinstance(m, SmtLinear)]
    for path in paths:
        name = f"base_model.model.model.layers.0.self_attn.{path}"
        a = weights[f"{name}.lora_A.weight"]
        b = weights[f"{name}.lora_B.weight"]
        expected = delta.get_submodule(path).get_delta_weight("default")
        assert torch.allclose(config.lora_alpha / config.r * b @ a, expected, atol=1e-5)
    assert apart.isfinite().all()


class Losses(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.values.append(logs["loss"])


def rows(count=24):
    text = [[(7 * i + 3 * j) % 200 + 5 for j in range(16)] for i in range(count)]
    return Dataset.from_dict({"input_ids": text, "labels": text})


def trainer(model, folder, losses, peft_config=None, **options):
    config = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=0,
        **{"max_steps": 3, checkpointing_argument(): False, "save_strategy": "no", **options},
    )
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows(),
        callbacks=[losses],
        peft_config=peft_config,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {checkpointing_argument(): True}, {"gradient_accumulation_steps": 2}],
    ids=["plain", "checkpointing", "accumulation"],
)
def test_three_steps_through_trl_lower_the_loss(model, tmp_path, options):
    losses = Losses()
    trainer(model, tmp_path, losses, **options).train()
    assert losses.values[-1] < losses.values[0]


def test_trl_applies_the_configuration_itself(tiny_model, tmp_path):
    losses = Losses()
    config = SmtConfig(blocks=chosen(tiny_model))
    one = trainer(load(tiny_model), tmp_path, losses, peft_config=config)
    one.train()
    assert losses.values[-1] < losses.values[0]
    assert isinstance(one.model, PeftModel)


def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        model = moved(get_peft_model(load(tiny_model), SmtConfig(blocks=chosen(tiny_model))))
        if checkpointing:
            model.enable_input_require_grads()
            enable_checkpointing(model, {"use_reentrant": False})
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(map(torch.equal, *gradients))


def test_resuming_through_trl_equals_the_undisturbed_run(tiny_model, tmp_path):
    def run(folder, resume, **options):
        model = get_peft_model(load(tiny_model), SmtConfig(blocks=chosen(tiny_model)))
        one = trainer(model, folder, Losses(), max_steps=4, lr_scheduler_type="constant", **options)
        one.train(resume_from_checkpoint=resume)
        return [p.detach() for p in model.parameters() if p.requires_grad]

    whole = run(tmp_path / "whole", None, save_strategy="steps", save_steps=2)
    resumed = run(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-2"))
    assert all(map(torch.equal, whole, resumed))


def test_half_precision(tiny_model):
    base = load(tiny_model, dtype=torch.bfloat16)
    model = moved(get_peft_model(base, SmtConfig(blocks=chosen(tiny_model))), size=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    out = model.train()(input_ids=IDS, labels=IDS)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        model = get_peft_model(load(tiny_model), SmtConfig(blocks=chosen(tiny_model)))
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_4bit_base_trains_and_does_not_merge(tiny_model):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    base = load_model(tiny_model, dtype=torch.float32, quantization_config=quantized)
    plain = logits(base)
    model = get_peft_model(base, SmtConfig(blocks=chosen(tiny_model)))
    assert torch.equal(logits(model), plain)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    with pytest.raises(UnsupportedAdapterError, match="full precision"):
        model.merge_adapter()


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_other_families_with_their_biases(family, tmp_path):
    folder = make_tiny_model(tmp_path / family, model_type=family)
    model = get_peft_model(load(folder), SmtConfig(blocks=chosen(folder)))
    if family == "qwen2":
        for module in model.modules():
            if isinstance(module, SmtLinear) and module.base_layer.bias is not None:
                module.base_layer.bias.data.normal_()
    with model.disable_adapter():
        expected = logits(model)
    assert torch.equal(logits(model), expected)
    moved(model)
    apart = logits(model)
    assert torch.allclose(logits(model.merge_and_unload()), apart, atol=1e-4)


def test_a_config_without_blocks_says_how_to_choose_them(tiny_model):
    with pytest.raises(SettingError, match="choose them first"):
        get_peft_model(load(tiny_model), SmtConfig())


def test_blocks_outside_the_weight_are_refused(tiny_model):
    path = "model.layers.0.self_attn.k_proj"
    with pytest.raises(
        SettingError, match=r"outside 'model.layers.0.self_attn.k_proj'.*\[32, 48\]"
    ):
        get_peft_model(load(tiny_model), SmtConfig(blocks={path: [Block(32, 0, 8, 8)]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blocks, values: (blocks[:, :3].contiguous(), values), "not \\[n, 4\\]"),
        (lambda blocks, values: (blocks + 1000, values), "reaches outside"),
        (lambda blocks, values: (blocks, values[:-1].clone()), "not the blocks' size"),
        (lambda blocks, values: (-blocks - 1, values), "negative places"),
        (lambda blocks, values: (None, values), "has no smt_blocks"),
    ],
)
def test_damaged_files_are_refused(model, tiny_model, tmp_path, change, message):
    model.save_pretrained(tmp_path, **OFFLINE)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights)).rsplit(".", 1)[0]
    blocks, values = change(weights.pop(f"{name}.smt_blocks"), weights.pop(f"{name}.smt_values"))
    if blocks is not None:
        weights[f"{name}.smt_blocks"] = blocks
    save_file({**weights, f"{name}.smt_values": values}, file, metadata={"format": "pt"})
    with pytest.raises(AdapterFormatError, match=message):
        PeftModel.from_pretrained(load(tiny_model), tmp_path)


def test_peft_reads_the_configuration(model, tmp_path):
    model.save_pretrained(tmp_path, **OFFLINE)
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, SmtConfig)
    assert config.layer_sizes == model.peft_config["default"].layer_sizes
