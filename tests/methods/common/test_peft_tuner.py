"""A tuner of our own inside PEFT, from `get_peft_model` to a merged model.

The tuner here is the smallest that has a weight and an index: it replaces chosen rows of a weight
matrix. If a release of PEFT breaks the bridge, these tests fail before any method does.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from safetensors.torch import load_file
from torch import nn

from gossamer.basemodel.load import load_model
from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.common.files import read_adapter, write_adapter
from gossamer.methods.common.peft_internals import BufferDict
from gossamer.methods.common.peft_tuner import GossamerConfig, GossamerTuner, register_tuner


@dataclass
class RowConfig(GossamerConfig):
    tuner_type: ClassVar[str] = "GOSSAMER_TEST_ROWS"
    rows: int = 2


class RowLayer(nn.Module, BaseTunerLayer):
    adapter_layer_names = ("testrow_values",)
    other_param_names = ("testrow_index",)

    def __init__(self, base_layer, adapter_name, rows):
        super().__init__()
        self.base_layer = base_layer
        self.testrow_values = nn.ParameterDict()
        self.testrow_index = BufferDict({}, persistent=True)
        self.merged_adapters = []
        self.update_layer(adapter_name, rows)

    def update_layer(self, adapter_name, rows):
        base = self.get_base_layer()
        self.testrow_values[adapter_name] = nn.Parameter(torch.zeros(rows, base.in_features))
        self.testrow_index[adapter_name] = torch.randperm(base.out_features)[:rows].to(torch.int32)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def get_delta_weight(self, name):
        delta = torch.zeros_like(self.get_base_weight())
        return delta.index_add(0, self.testrow_index[name].long(), self.testrow_values[name])

    def merge(self, safe_merge=False, adapter_names=None):
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.testrow_values:
                self.set_base_weight(self.get_base_weight() + self.get_delta_weight(name).detach())
                self.merged_adapters.append(name)

    def unmerge(self):
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self.set_base_weight(self.get_base_weight() - self.get_delta_weight(name).detach())

    def forward(self, x):
        out = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return out
        for name in self.active_adapters:
            if name in self.testrow_values:
                out = out + nn.functional.linear(x, self.get_delta_weight(name))
        return out


class RowModel(GossamerTuner):
    prefix = "testrow_"
    tuner_layer_cls = RowLayer

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, **kwargs):
        if isinstance(target, RowLayer):
            target.update_layer(adapter_name, config.rows)
            return
        layer = RowLayer(target, adapter_name, config.rows)
        self._replace_module(parent, target_name, layer, target)


register_tuner("GOSSAMER_TEST_ROWS", RowConfig, RowModel, "testrow_")


def tuned(folder, *, seed=0, name="default"):
    """A model whose adapter has moved."""
    torch.manual_seed(seed)
    config = RowConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(folder, dtype=torch.float32), config, adapter_name=name)
    with torch.no_grad():
        for parameter in learnt(model):
            parameter.normal_(0, 0.3)
    return model


def learnt(model):
    return [p for p in model.parameters() if p.requires_grad]


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(40).reshape(2, 20) + 5).logits


def test_only_the_adapter_learns(tiny_model):
    model = tuned(tiny_model)
    # Two rows of q_proj (48 wide) and of down_proj (100 wide) in each of three decoder layers.
    assert sum(p.numel() for p in learnt(model)) == 3 * 2 * (48 + 100)
    model(input_ids=torch.arange(8)[None] + 5, labels=torch.arange(8)[None] + 5).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt(model))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_by_peft_the_logits_are_the_same(tiny_model, tmp_path, low_cpu_mem_usage):
    model = tuned(tiny_model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    torch.manual_seed(9)
    again = PeftModel.from_pretrained(
        load_model(tiny_model, dtype=torch.float32), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(logits(model), logits(again))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.testrow_"
    assert {f"{prefix}values", f"{prefix}index"} <= set(weights)
    assert weights[f"{prefix}index"].dtype == torch.int32
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == (
        "GOSSAMER_TEST_ROWS"
    )


def test_the_folder_of_a_run_is_written_and_read(tiny_model, tmp_path):
    model = tuned(tiny_model)
    write_adapter(model, tmp_path, base_name="name", base_fingerprint="f" * 64)
    again = tuned(tiny_model, seed=5)
    read_adapter(again, tmp_path)
    assert torch.equal(logits(model), logits(again))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj"]


def test_merge_unmerge_and_unload(tiny_model):
    model = tuned(tiny_model)
    base = logits(load_model(tiny_model, dtype=torch.float32))
    apart = logits(model)
    assert not torch.allclose(apart, base, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.merge_adapter()
    assert torch.allclose(logits(model), apart, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(logits(model), apart, atol=1e-5)
    plain = model.merge_and_unload()
    assert not any(isinstance(module, BaseTunerLayer) for module in plain.modules())
    assert torch.allclose(logits(plain), apart, atol=1e-5)


def test_two_adapters_at_once(tiny_model, tmp_path):
    one, two = tuned(tiny_model, seed=1), tuned(tiny_model, seed=2)
    two.save_pretrained(tmp_path, save_embedding_layers=False)
    first, second = logits(one), logits(two)
    one.load_adapter(tmp_path, "other")
    assert torch.equal(logits(one), first)
    one.set_adapter("other")
    assert torch.equal(logits(one), second)
    one.set_adapter("default")
    one.delete_adapter("other")
    assert torch.equal(logits(one), first)


def test_a_mixed_batch_is_refused(tiny_model):
    model = tuned(tiny_model)
    ids = torch.arange(8).reshape(2, 4) + 5
    for call in (model, model.generate):
        with pytest.raises(UnsupportedAdapterError, match="cannot mix adapters in one batch"):
            call(input_ids=ids, adapter_names=["default", "nobody"])


def test_a_type_or_prefix_that_is_taken_is_a_mistake():
    other = type("Other", (RowModel,), {"prefix": "testrow_"})
    with pytest.raises(ValueError, match="'GOSSAMER_TEST_ROWS' is taken by RowModel"):
        register_tuner("GOSSAMER_TEST_ROWS", RowConfig, other, "testrow_")
    with pytest.raises(ValueError, match="prefix 'testrow_' is taken"):
        register_tuner("GOSSAMER_TEST_OTHER", RowConfig, other, "testrow_")
    with pytest.raises(ValueError, match=r"Other\.prefix is 'testrow_'"):
        register_tuner("GOSSAMER_TEST_OTHER", RowConfig, other, "else_")
    assert "GOSSAMER_TEST_OTHER" not in PEFT_TYPE_TO_CONFIG_MAPPING
    register_tuner("GOSSAMER_TEST_ROWS", RowConfig, RowModel, "testrow_")
    assert PEFT_TYPE_TO_TUNER_MAPPING["GOSSAMER_TEST_ROWS"] is RowModel


def test_methods_can_be_listed_without_the_bridge():
    code = (
        "import sys, gossamer.methods as m; m.names(); "
        "print('gossamer.methods.common.peft_tuner' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
