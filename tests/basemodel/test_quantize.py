"""The names of ways to quantise a base model, and what is said where one cannot be had."""

import subprocess
import sys
from importlib.util import find_spec
from typing import get_args

import pytest
import torch
from transformers import AutoConfig, BitsAndBytesConfig

from gossamer.basemodel.load import load_model, load_served_model
from gossamer.basemodel.quantize import (
    Quantization,
    check_served,
    quantization_config,
    quantization_of,
    served_quantization,
    stored_bytes,
)
from gossamer.errors import MissingExtraError, SettingError, UnsupportedModelError
from gossamer.serving.runner.model_shape import base_sizes


def saved(quantization):
    return AutoConfig.for_model("llama", quantization_config=quantization)


@pytest.mark.parametrize("name", get_args(Quantization))
def test_a_way_has_the_name_by_which_it_is_asked_for(name):
    """As a config object, and as the dict that a model folder has."""
    if name != "none":
        pytest.importorskip("torchao" if name == "int8" else "bitsandbytes", reason="not installed")
    config = quantization_config(name, torch.float32)
    assert quantization_of(saved(config)) == name
    if config is not None:
        assert quantization_of(saved(config.to_dict())) == name
        check_served(saved(config))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (BitsAndBytesConfig(load_in_4bit=True), "bnb-4bit-fp4-single"),
        (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True), "bnb-4bit-fp4"),
        (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "bnb-4bit-single"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_4_bits_in_other_ways_are_told_apart_and_served_as_saved(config, name):
    check_served(saved(config))
    assert served_quantization(saved(config), "none") == name
    with pytest.raises(SettingError, match=f"saved quantised already .{name}"):
        served_quantization(saved(config), "bnb-4bit")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quant_method": "awq"}, "quantised by awq"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4_weight_only"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnly"}}},
            "Int4WeightOnly",
        ),
        (
            BitsAndBytesConfig(load_in_8bit=True, llm_int8_has_fp16_weight=True).to_dict(),
            "llm_int8_has_fp16_weight",
        ),
    ],
)
def test_what_is_not_served_is_named_and_so_is_what_is(fields, said):
    with pytest.raises(UnsupportedModelError, match=f"{said}.*served are bitsandbytes' 4-bit"):
        check_served(saved(fields))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("bnb-8bit", "bitsandbytes", "qlora"), ("int8", "torchao", "int8")],
)
def test_a_missing_library_is_named_with_what_installs_it(name, package, extra, monkeypatch):
    hidden = [package, "accelerate"]
    monkeypatch.setattr(
        "gossamer.extras.find_spec", lambda module: None if module in hidden else find_spec(module)
    )
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install -e '\.\[{extra}\]'"):
        quantization_config(name, torch.float32)


@pytest.mark.parametrize("name", get_args(Quantization))
def test_planned_bytes_are_those_of_the_loaded_model(name, tiny_model):
    if name != "none":
        pytest.importorskip("torchao" if name == "int8" else "bitsandbytes", reason="not installed")
    stored = stored_bytes(load_served_model(tiny_model, name, dtype=torch.float32))
    planned = base_sizes(tiny_model, quantization=name).weight_bytes
    whole = base_sizes(tiny_model).weight_bytes
    # Bitsandbytes begins a group of 256 scales that it does not fill: 4 bytes for a layer.
    assert planned <= stored <= planned + 4 * 21
    if name == "none":
        assert stored == whole
    else:
        assert stored < 0.5 * whole


def test_8_bit_weights_are_multiplied_whole_whatever_the_neighbours(tiny_model):
    """LLM.int8 would compute a column apart for all rows where one row has an outlier."""
    pytest.importorskip("bitsandbytes")
    way = quantization_config("bnb-8bit", torch.float32)
    model = load_model(tiny_model, dtype=torch.float32, quantization_config=way)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
    calm = x.clone()
    x[3, 7] = 60.0
    with torch.inference_mode():
        y, other = layer(x), layer(calm)
        weight = layer.weight.data.float() * layer.state.SCB[:, None] / 127
    assert torch.allclose(y, x @ weight.T, atol=1e-4)
    rows = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(y[rows], other[rows])


def test_nothing_heavy_is_loaded_for_the_names():
    code = "import gossamer.basemodel.quantize, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
