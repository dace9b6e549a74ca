"""`sparse_lora`: a low-rank update under a mask, and its result as a SHiRA adapter."""

import json

import pytest
import torch
from entry_case import (
    IDS,
    base_weights,
    build,
    context,
    disturb,
    layers_of,
    learning,
    logits,
    probe_batches,
)
from peft import PeftModel, get_peft_model
from torch.nn.functional import linear

from gossamer import methods
from gossamer.adapters.load import load_adapter
from gossamer.basemodel.load import load_model
from gossamer.errors import SettingError
from gossamer.methods.common.sparse_delta.mask import num_entries, random_entries
from gossamer.methods.sparse_lora.config import SparseLoraConfig
from gossamer.methods.sparse_lora.layer import SparseLoraLinear

from tiny import make_tiny_model, module_shapes

SOME = {"rank": 4, "density": 0.1}


def test_it_starts_as_the_base_and_trains_as_many_as_lora(tiny_model):
    _, model, _ = build("sparse_lora", tiny_model, **SOME)
    assert torch.equal(logits(model), logits(load_model(tiny_model, dtype=torch.float32)))
    shapes = module_shapes(tiny_model).values()
    expected = sum(4 * (h_out + h_in) for h_out, h_in in shapes)
    assert sum(p.numel() for p in learning(model).values()) == expected


def test_a_layer_and_its_gradients_equal_the_dense_masked_reference(tiny_model):
    _, model, _ = build("sparse_lora", tiny_model, **SOME, dtype=torch.float64)
    disturb(model)
    for path in ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj", "layers.2.mlp.up_proj"):
        layer = model.get_submodule(f"base_model.model.model.{path}")
        a, b = layer.sparselora_A["default"], layer.sparselora_B["default"]
        mask = torch.zeros(layer.shape, dtype=torch.float64)
        mask[layer.index("default")[0].long(), layer.index("default")[1].long()] = 1
        x = torch.randn(2, 5, layer.in_features, dtype=torch.float64, requires_grad=True)
        target = torch.randn(2, 5, layer.out_features, dtype=torch.float64)
        fast = layer(x)
        slow = linear(x, layer.base_layer.weight + mask * (8 * b @ a))
        assert torch.allclose(fast, slow, rtol=1e-12, atol=1e-12)
        got = torch.autograd.grad((fast * target).sum(), (x, a, b))
        expected = torch.autograd.grad((slow * target).sum(), (x, a, b))
        for one, two in zip(got, expected, strict=True):
            assert torch.allclose(one, two, rtol=1e-11, atol=1e-11)


def test_under_a_mask_of_everything_it_is_lora(tiny_model):
    # More than a SHiRA adapter can hold, so no run would begin with it.
    config = SparseLoraConfig(target_modules="all-linear", r=4, density=1.0)
    model = get_peft_model(load_model(tiny_model, dtype=torch.float32), config)
    _, lora, _ = build("lora", tiny_model, rank=4)
    for path, layer in layers_of(model, SparseLoraLinear).items():
        other = lora.get_submodule(f"base_model.model.{path}")
        with torch.no_grad():
            layer.sparselora_B["default"].normal_(0, 0.1)
            other.lora_A["default"].weight.copy_(layer.sparselora_A["default"])
            other.lora_B["default"].weight.copy_(layer.sparselora_B["default"])
    assert torch.allclose(logits(model), logits(lora), atol=1e-5)


def test_the_mask_lies_where_the_gradient_is_largest_or_anywhere(tiny_model):
    _, model, _ = build("sparse_lora", tiny_model, **SOME, probe_batches=2)
    plain = load_model(tiny_model, dtype=torch.float32)
    for batch in probe_batches(2):
        plain(**batch).loss.backward()
    for path, layer in layers_of(model, SparseLoraLinear).items():
        gradient = plain.get_submodule(path).weight.grad.abs()
        index = layer.index("default").long()
        assert index.shape[1] == num_entries(layer.shape, 0.1)
        off_mask = torch.ones(layer.shape, dtype=torch.bool)
        off_mask[index[0], index[1]] = False
        assert gradient[index[0], index[1]].min() >= gradient[off_mask].max()
    _, model, _ = build("sparse_lora", tiny_model, **SOME, mask="random")
    for path, layer in layers_of(model, SparseLoraLinear).items():
        assert torch.equal(layer.index("default"), random_entries(0, path, layer.shape, 0.1))


class TestResult:
    """What a run leaves behind."""

    @pytest.fixture
    def exported(self, tiny_model, tmp_path):
        method, model, where = build("sparse_lora", tiny_model, **SOME, layers=[0, 2])
        disturb(model)
        method.export(model, tmp_path, where)
        return model, tmp_path

    def test_plain_peft_loads_it_as_shira(self, exported, tiny_model):
        model, folder = exported
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "SHIRA"
        assert config["base_model_name_or_path"] == "some-name"
        again = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), folder)
        assert torch.allclose(logits(again), logits(model), atol=1e-5)

    def test_our_reader_finds_the_same_change(self, exported):
        model, folder = exported
        adapter = load_adapter(folder, base_fingerprint="f" * 64)
        layers = layers_of(model, SparseLoraLinear)
        assert adapter.deltas.keys() == layers.keys()
        for path, delta in adapter.deltas.items():
            weight = torch.zeros(layers[path].shape)
            delta.add_to(weight)
            assert torch.allclose(weight, layers[path].get_delta_weight("default"), atol=1e-7)
            assert (weight != 0).sum() <= num_entries(layers[path].shape, 0.1)
            places = delta.rows * layers[path].in_features + delta.columns
            assert len(places.unique()) == len(places)

    def test_entries_off_the_mask_stay_bit_for_bit(self, exported, tiny_model):
        model, _ = exported
        masks = {
            p: m.index("default").long() for p, m in layers_of(model, SparseLoraLinear).items()
        }
        merged = dict(model.merge_and_unload().state_dict())
        for name, weight in base_weights(tiny_model).items():
            untouched = torch.ones(weight.shape, dtype=torch.bool)
            if name.removesuffix(".weight") in masks:
                rows, columns = masks[name.removesuffix(".weight")]
                untouched[rows, columns] = False
            assert torch.equal(merged[name][untouched], weight[untouched]), name

    def test_a_checkpoint_holds_the_factors(self, tiny_model, tmp_path):
        method, model, where = build("sparse_lora", tiny_model, **SOME)
        disturb(model)
        method.save(model, tmp_path, where)
        again = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), tmp_path)
        assert torch.equal(logits(again), logits(model))
        _, other, _ = build("sparse_lora", tiny_model, **SOME, mask="random")
        method.restore(other, tmp_path)
        assert torch.equal(logits(other), logits(model))

    def test_a_density_that_shira_cannot_hold_is_refused_at_once(self, tiny_model):
        with pytest.raises(SettingError, match=r"density = 0\.9: SHiRA's layout would need"):
            build("sparse_lora", tiny_model, rank=4, density=0.9)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_families_of_models_merge_unmerge_and_disable(family, tmp_path):
    folder = make_tiny_model(tmp_path / family, model_type=family)
    _, model, _ = build("sparse_lora", folder, **SOME)
    base = logits(load_model(folder, dtype=torch.float32))
    disturb(model)
    apart = logits(model)
    assert not torch.allclose(apart, base, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.merge_adapter()
    assert torch.allclose(logits(model), apart, atol=1e-4)
    model.unmerge_adapter()
    assert torch.allclose(logits(model), apart, atol=1e-4)


def test_on_a_4bit_base_it_learns_and_does_not_merge(tiny_model):
    pytest.importorskip("bitsandbytes")
    from gossamer.errors import UnsupportedAdapterError

    where = context(tiny_model)
    config = methods.find("qlora").from_values({}).quantization(where)
    base = load_model(tiny_model, dtype=torch.float32, quantization_config=config)
    model = methods.find("sparse_lora").from_values(SOME).prepare(base, where)
    before = logits(model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    moved = [n for n, p in learning(model).items() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) == len(layers_of(model, SparseLoraLinear)), "each B"
    disturb(model)
    assert not torch.allclose(logits(model), before, atol=1e-3)
    with pytest.raises(UnsupportedAdapterError, match="cannot merge into quantised weights"):
        model.merge_adapter()


@pytest.mark.parametrize("values", [{"density": 0}, {"mask": "best"}, {"probe_batches": 0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(SettingError, match=f"'{next(iter(values))}'"):
        methods.find("sparse_lora").from_values(values)
