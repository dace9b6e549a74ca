"""Readers of side networks and of networks beside reversible layers: what is wrong is named."""

import json
from dataclasses import replace

import pytest
import torch
from method_helpers import base_folder, base_model
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.inspect import inspect
from gossamer.adapters.load import load_adapter
from gossamer.adapters.merge import merge_into
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError
from gossamer.tuners import MeftConfig, SherlConfig

CONFIGS = {
    "sherl": SherlConfig(late_layers=1, task_type="CAUSAL_LM"),
    "meft": MeftConfig(reversible_layers=2, width=4, task_type="CAUSAL_LM"),
}
SHAPE = BaseShape(linears={}, num_layers=3, hidden_size=48, num_kv_heads=2, head_dim=16)
PREFIX = "base_model.model.model.layers."


@pytest.fixture
def saved(tmp_path):
    """Saves with PEFT, then changes config and tensors."""

    def save(name, change=None, **fields):
        model = get_peft_model(base_model(base_folder("llama"), torch.float32), CONFIGS[name])
        folder = tmp_path / name
        model.save_pretrained(folder)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        if change is not None:
            tensors = load_file(folder / "adapter_model.safetensors")
            change(tensors)
            save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return save


def test_what_peft_saves_is_read(saved):
    side = load_adapter(saved("sherl"), base=SHAPE)
    assert (side.kind, side.layers, side.form, side.gamma) == (
        "side-network",
        (0, 1),
        "gated",
        None,
    )
    assert side.stacks["fc1_weight"].shape == (3, 12, 48)
    pair = load_adapter(saved("meft"), base=SHAPE)
    assert (pair.kind, pair.variant, pair.lam, pair.beta) == ("two-stream", "meft1", 0.125, 1.0)
    assert [f.down.shape for f, _ in pair.layers] == [(4, 48), (4, 48)]
    assert {inspect(saved(name)).kind for name in CONFIGS} == {"side-network", "two-stream"}


@pytest.mark.parametrize("name", CONFIGS)
def test_they_change_no_weights(saved, name):
    with pytest.raises(UnsupportedAdapterError, match=r"changes no weights.*gossamer serve"):
        merge_into(base_model(base_folder("llama"), torch.float32), saved(name))


@pytest.mark.parametrize(
    ("name", "fields", "error", "match"),
    [
        ("sherl", {"form": "sigmoid"}, UnsupportedAdapterError, "form = 'sigmoid'.*gated"),
        ("sherl", {"skip": None}, UnsupportedAdapterError, "skip = None.*whole"),
        ("sherl", {"layers": [1, 0]}, AdapterFormatError, r"layers = \[1, 0\] must be the asc"),
        ("sherl", {"layers": []}, AdapterFormatError, "layers = "),
        ("sherl", {"layers": [0]}, AdapterFormatError, "stands behind block 0"),
        ("sherl", {"layers": [1]}, AdapterFormatError, r"\[2, h, d\]: it reads 2 states"),
        ("sherl", {"late_layers": 2}, BaseMismatchError, "4 blocks that are 48 wide.*3 of 48"),
        ("sherl", {"late_layers": None}, AdapterFormatError, "late_layers = None"),
        ("sherl", {"skip": "gated"}, AdapterFormatError, "has no gamma"),
        ("sherl", {"form": "linear"}, AdapterFormatError, "has fc2_bias"),
        ("sherl", {"modules_to_save": ["norm"]}, UnsupportedAdapterError, "modules_to_save"),
        ("meft", {"variant": "meft4"}, UnsupportedAdapterError, "variant = 'meft4'.*meft3"),
        ("meft", {"activation": "elu"}, UnsupportedAdapterError, "activation = 'elu'"),
        ("meft", {"residual": "half"}, UnsupportedAdapterError, "residual = 'half'"),
        ("meft", {"stream_dtype": "int8"}, UnsupportedAdapterError, "stream_dtype = 'int8'"),
        ("meft", {"lam": 0}, AdapterFormatError, "lam = 0"),
        ("meft", {"beta": True}, AdapterFormatError, "beta = True"),
        ("meft", {"reversible_layers": 3}, AdapterFormatError, "the first 3"),
        ("meft", {"reversible_layers": 2_000_000_000}, AdapterFormatError, "first 2000000000"),
        ("meft", {"reversible_layers": 0}, AdapterFormatError, "reversible_layers = 0"),
    ],
)
def test_wrong_configs_are_named(saved, name, fields, error, match):
    with pytest.raises(error, match=match) as caught:
        load_adapter(saved(name, **fields), base=SHAPE)
    assert name in str(caught.value)


def drop(end):
    return lambda tensors: tensors.pop(next(key for key in sorted(tensors) if key.endswith(end)))


def put(key, *shape):
    return lambda tensors: tensors.update({PREFIX + key: torch.ones(*shape)})


@pytest.mark.parametrize(
    ("name", "change", "error", "match"),
    [
        ("sherl", drop("out_bias"), AdapterFormatError, "has no out_bias"),
        ("sherl", put("1.sherl_side.fc9_bias", 3), AdapterFormatError, "has fc9_bias"),
        ("sherl", put("0.sherl_side.out_bias", 48), AdapterFormatError, "stands behind block 1"),
        ("sherl", put("1.sherl_side.fc2_bias", 3, 9), AdapterFormatError, r"\[3, 9\], not \[3, 12"),
        ("sherl", put("1.mlp.up_proj.weight", 2), UnsupportedAdapterError, "no part of a side"),
        ("meft", drop("1.meft_g_up.bias"), AdapterFormatError, r"layer 1 has no meft_g_up\.bias"),
        ("meft", put("0.meft_f_up.bias", 9), AdapterFormatError, r"layer 0 has shapes \[4, 48\]"),
        ("meft", put("7.meft_f_up.bias", 48), AdapterFormatError, r"layers \[0, 1, 7\]"),
        ("meft", put("0.meft_h.bias", 48), UnsupportedAdapterError, "no part of a network beside"),
    ],
)
def test_wrong_tensors_are_named(saved, name, change, error, match):
    with pytest.raises(error, match=match):
        load_adapter(saved(name, change), base=SHAPE)


@pytest.mark.parametrize("name", CONFIGS)
def test_bases_of_other_sizes_are_refused(saved, name):
    for other in (replace(SHAPE, num_layers=1), replace(SHAPE, hidden_size=32)):
        with pytest.raises(BaseMismatchError, match="use the base it was trained on"):
            load_adapter(saved(name), base=other)
