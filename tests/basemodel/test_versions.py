"""The names that transformers changed, by whichever of them the installed version knows."""

from transformers import AutoModelForCausalLM, TrainingArguments

from gossamer.basemodel.versions import (
    checkpointing_argument,
    disable_checkpointing,
    enable_checkpointing,
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
