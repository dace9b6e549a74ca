"""The names that transformers changed, by whichever of them the installed version knows."""

import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from gossamer.basemodel.versions import (
    cache_in,
    checkpointing_argument,
    disable_checkpointing,
    enable_checkpointing,
    uncached_arguments,
)


class Former:
    """A model of transformers before 5.23."""

    def __init__(self):
        self.calls = []

    def gradient_checkpointing_enable(self, options):
        self.calls.append(options)

    def gradient_checkpointing_disable(self):
        self.calls.append("off")


def checkpoints(model):
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_blocks_keep_their_inputs_only(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    enable_checkpointing(model, {"use_reentrant": False})
    assert checkpoints(model)
    disable_checkpointing(model)
    assert not checkpoints(model)


def test_the_former_names():
    model = Former()
    enable_checkpointing(model, {"use_reentrant": False})
    disable_checkpointing(model)
    assert model.calls == [{"use_reentrant": False}, "off"]


def test_the_argument_turns_it_on(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, **{checkpointing_argument(): True})
    assert arguments.gradient_checkpointing is True


def test_the_cache_by_either_name():
    assert cache_in({"past_key_values": 1}) == cache_in({"cache": 1, "past_key_values": None}) == 1
    assert cache_in({"use_cache": True}) is None
    assert uncached_arguments({"cache": 1, "position_ids": 2, "use_cache": True}) == {
        "position_ids": 2, "use_cache": False
    }  # fmt: skip


def test_the_cache_of_a_models_output(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    out = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True)
    assert cache_in(out).get_seq_length() == 3
