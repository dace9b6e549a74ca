"""Several adapters of one of our tuners on one model, and TRL's preference training from one."""

import math

import pytest
import torch
from datasets import Dataset
from method_helpers import base_folder, logits
from peft import PeftModel, ShiraConfig, get_peft_model
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer
from tuner_cases import CONFIGS, LINEAR, MEFT, NAMES, base, stir, tuned

from gossamer.basemodel.versions import checkpointing_argument
from gossamer.errors import UnknownNameError
from gossamer.methods.lamda.freezing import freeze_columns, lamda_layers
from gossamer.tuners import copy_adapter

# PEFT sees "ref" in ReFT's prefix, "reft_"; names end at dots, so nothing is mixed up.
pytestmark = pytest.mark.filterwarnings("ignore:Adapter name 'ref' should not be contained")


@pytest.mark.parametrize("name", NAMES)
def test_a_second_adapter_with_the_same_configuration_leaves_the_first_alone(name):
    model = tuned(name)
    before = logits(model)
    model.add_adapter("second", model.peft_config["default"])
    assert torch.equal(logits(model), before)
    model.set_adapter("second")
    assert torch.allclose(logits(model), logits(base()), atol=1e-4) == (name not in MEFT)
    stir(model, seed=1)
    assert not torch.allclose(logits(model), before, atol=1e-2)
    model.set_adapter("default")
    assert torch.equal(logits(model), before)
    model.delete_adapter("second")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", NAMES)
def test_loading_another_adapter_freezes_nothing(name, tmp_path):
    model = tuned(name)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    model.load_adapter(tmp_path, "other")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize("name", LINEAR)
def test_a_second_adapter_of_all_linear_layers(name):
    config = CONFIGS[name](target_modules="all-linear")
    model = get_peft_model(base(), config)
    model.add_adapter("second", CONFIGS[name](target_modules="all-linear"))
    adapters = [layer.available_adapters for layer in model.get_layer_status()]
    assert adapters == [["default", "second"]] * (7 * 3)
    model.set_adapter("second")
    stir(model)
    assert not torch.allclose(logits(model), logits(base()), atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_named_ref_begins_as_a_copy(name):
    model = tuned(name)
    expected = logits(model)
    model.add_adapter("ref", model.peft_config["default"])
    stir(model, seed=1)
    assert not torch.allclose(logits(model), expected, atol=1e-2)
    model.set_adapter("ref")
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_from_a_folder_is_copied_too(name, tmp_path):
    """Places and shapes that only the weights know, such as frozen columns, are part of it."""
    source = tuned(name)
    if name == "lamda":
        for layer, adapter in lamda_layers(source):
            freeze_columns(layer, adapter, 2)
    if name == "sparse_lora":
        for layer in source.base_model._layers():
            layer.draw_index("default", "elsewhere", seed=5, density=0.2)
    source.save_pretrained(tmp_path, save_embedding_layers=False)
    model = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True)
    expected = logits(source)
    assert torch.equal(logits(model), expected)
    model.add_adapter("ref", model.peft_config["default"])
    model.set_adapter("ref")
    assert torch.equal(logits(model), expected)


def preference_trainer(model, folder):
    rows = [{"prompt": f"{i}+1?", "chosen": f" {i + 1}", "rejected": " no"} for i in range(4)]
    return DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            max_steps=1,
            **{checkpointing_argument(): False},
            learning_rate=0.0,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            per_device_train_batch_size=4,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base_folder("llama")),
    )


def first_loss(trainer):
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("name", NAMES)
def test_preference_training_begins_at_its_own_reference(name, tmp_path):
    """Policy and reference are the same at first, so the loss is log 2 whatever was learnt."""
    trainer = preference_trainer(tuned(name), tmp_path)
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-6)


def test_copy_adapter_mends_the_reference_of_peft_s_own_tuners(tmp_path):
    config = ShiraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base(), config)
    stir(model)
    trainer = preference_trainer(model, tmp_path)
    copy_adapter(trainer.model, "default", "ref")
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-6)


def test_copy_adapter_adds_its_target_and_knows_its_source():
    model = tuned("smt")
    expected = logits(model)
    copy_adapter(model, "default", "kept")
    assert torch.equal(logits(model), expected)
    model.set_adapter("kept")
    assert torch.equal(logits(model), expected)
    with pytest.raises(UnknownNameError, match="unknown adapter 'defualt'; did you mean 'default'"):
        copy_adapter(model, "defualt", "other")
