"""Our tuners in half precision, under inference mode and compiled."""

import pytest
import torch
from method_helpers import IDS, LABELS, base_folder, logits
from peft import PeftModel, get_peft_model
from torch import nn
from tuner_cases import CONFIGS, MEFT, MERGED, NAMES, base, numbers, stir, tuned

from gossamer.tuners import SloraConfig, SparseLoraConfig

HALF = torch.bfloat16


def relative(found, expected):
    found, expected = found.float(), expected.float()
    return ((found - expected).abs().mean() / expected.std()).item()


@pytest.mark.parametrize("name", NAMES)
def test_without_autocast_an_adapter_is_of_the_base_s_type(name, tmp_path):
    """What trainers ask for where all weights of a unit must be of one type."""
    config = CONFIGS[name](task_type="CAUSAL_LM")
    model = get_peft_model(base(HALF), config, autocast_adapter_dtype=False)
    as_base = relative(logits(model), logits(base(HALF))) < 1e-3
    assert as_base == (name not in MEFT), "starts as the base"
    model.add_adapter("added", config, autocast_adapter_dtype=False)
    stir(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    model.load_adapter(tmp_path, "loaded", autocast_adapter_dtype=False)
    for adapter in ("default", "added", "loaded"):
        assert {tensor.dtype for tensor in numbers(model, adapter).values()} == {HALF}
    model(input_ids=IDS, labels=LABELS).loss.backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learning)
    expected = logits(model)
    model.set_adapter("loaded")
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", NAMES)
def test_by_default_an_adapter_is_of_float32(name, tmp_path):
    model = tuned(name, dtype=HALF)
    assert {tensor.dtype for tensor in numbers(model).values()} == {torch.float32}
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = logits(model)
    for options in ({}, {"low_cpu_mem_usage": True}):
        again = PeftModel.from_pretrained(base(HALF), tmp_path, **options)
        assert {tensor.dtype for tensor in numbers(again).values()} == {torch.float32}
        assert torch.equal(logits(again), expected), options


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_turned_to_half_precision_still_answers(name, dtype):
    model = tuned(name)
    expected = logits(model)
    model = model.to(dtype)
    assert relative(logits(model), expected) < 0.05
    if name in MERGED:
        assert relative(logits(model.merge_and_unload()), expected) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_made_and_loaded_under_inference_mode(name, tmp_path):
    """What was worked out for an adapter is forgotten when its weights are loaded."""
    one, two = tuned(name), tuned(name, seed=1)
    if name in ("slora", "slora_residual", "sparse_lora"):
        for layer in two.base_model._layers():
            layer.draw_index("default", "elsewhere", seed=5, density=0.2)
    folders = [tmp_path / "one", tmp_path / "two"]
    for model, folder in zip((one, two), folders, strict=True):
        model.save_pretrained(folder, save_embedding_layers=False)
    with torch.inference_mode():
        loaded = PeftModel.from_pretrained(base(), folders[0])
        assert torch.equal(logits(loaded), logits(one))
        loaded.load_adapter(folders[1], "default")
        assert torch.equal(logits(loaded), logits(two))


@pytest.mark.parametrize("name", ["smt", "slora", "sparse_lora"])
def test_training_goes_on_after_inference_mode(name):
    model = tuned(name)
    with torch.inference_mode():
        model(input_ids=IDS)
    model(input_ids=IDS, labels=LABELS).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "config",
    [
        SparseLoraConfig(target_modules=["0", "2"], density=0.3, r=2),
        SloraConfig(target_modules=["0", "2"], density=0.3),
    ],
    ids=["sparse_lora", "slora"],
)
def test_a_compiled_model_learns_the_same(config):
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), config)
    stir(model)
    x = torch.randn(4, 6)
    expected = model(x)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    torch._dynamo.reset()
    found = torch.compile(model, backend="aot_eager")(x)
    found.square().mean().backward()
    assert torch.allclose(found, expected, atol=1e-6)
    again = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(again, gradients, strict=True))


def test_the_base_of_these_tests_is_in_half_precision_where_asked():
    assert {p.dtype for p in base(HALF).parameters()} == {HALF}
    assert base_folder("llama").is_dir()
