import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gossamer.adapters.config import lora_spec, read_config
from gossamer.adapters.kinds import low_rank
from gossamer.adapters.source import AdapterSource
from gossamer.errors import (
    AdapterFormatError,
    AdapterNotFoundError,
    BaseMismatchError,
    UnsupportedAdapterError,
)

from tiny import make_lora, module_shapes

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path, tiny_model):
    return make_lora(tmp_path / "mine", tiny_model, rank=4, alpha=8)


@pytest.fixture(scope="module")
def shapes(tiny_model):
    return module_shapes(tiny_model)


def load_low_rank(folder, **demands):
    return low_rank.load_low_rank(AdapterSource.read(folder, **demands))


def edit_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder, change, metadata=None):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def test_reads_factors_and_scale(adapter, shapes):
    loaded = load_low_rank(adapter, linears=shapes)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert loaded.name == "mine"
    assert set(loaded.factors) == set(shapes)
    assert loaded.max_rank == 4
    factors = loaded.factors["model.layers.0.self_attn.q_proj"]
    assert factors.scale == 2.0
    assert torch.equal(factors.a, stored[f"{Q0}.lora_A.weight"])
    assert torch.equal(factors.b, stored[f"{Q0}.lora_B.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_keeps_the_stored_number_format(tmp_path, tiny_model, dtype):
    folder = make_lora(tmp_path / "a", tiny_model, rank=2, targets=("q_proj",), dtype=dtype)
    assert {f.a.dtype for f in load_low_rank(folder).factors.values()} == {dtype}


def test_rank_and_alpha_patterns_and_rslora(tmp_path, tiny_model):
    folder = make_lora(
        tmp_path / "a",
        tiny_model,
        rank=4,
        alpha=8,
        use_rslora=True,
        rank_pattern={"q_proj": 9},
        alpha_pattern={"q_proj": 6, "layers.1.mlp.up_proj": 2},
    )
    factors = load_low_rank(folder).factors
    assert factors["model.layers.2.self_attn.q_proj"].rank == 9
    assert factors["model.layers.2.self_attn.q_proj"].scale == pytest.approx(2.0)
    assert factors["model.layers.1.mlp.up_proj"].scale == pytest.approx(1.0)
    assert factors["model.layers.0.mlp.up_proj"].scale == pytest.approx(4.0)


def test_later_changes_of_the_file_do_not_reach_a_loaded_adapter(adapter):
    factors = load_low_rank(adapter).factors["model.layers.0.self_attn.q_proj"]
    before = factors.a.clone()
    (adapter / "adapter_model.safetensors").write_bytes(b"\xff" * 100_000)
    assert torch.equal(factors.a, before)


REFUSED_FIELDS = {
    "use_dora": True,
    "bias": "all",
    "lora_bias": True,
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [1, 2],
    "layer_replication": [[0, 2], [1, 3]],
    "target_parameters": ["experts.weight"],
    "alora_invocation_tokens": [5],
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"arrow_top_k": 2},
    "monteclora_config": {"num_samples": 8},
    "kasa_config": {"beta": 1e-4},
    "megatron_config": {"tensor_model_parallel_size": 2},
    "use_some_future_variant": True,
}


@pytest.mark.parametrize("field", REFUSED_FIELDS)
def test_refuses_by_name_what_it_cannot_compute(adapter, field):
    edit_config(adapter, **{field: REFUSED_FIELDS[field]})
    with pytest.raises(UnsupportedAdapterError) as caught:
        load_low_rank(adapter)
    message = str(caught.value)
    assert "mine" in message
    assert ("DoRA" if field == "use_dora" else field) in message


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_refuses_starts_that_change_the_base(adapter, init):
    edit_config(adapter, init_lora_weights=init)
    with pytest.raises(UnsupportedAdapterError, match=f"init_lora_weights = '{init}'"):
        load_low_rank(adapter)


def test_refuses_other_types(adapter):
    edit_config(adapter, peft_type="IA3")
    with pytest.raises(UnsupportedAdapterError, match="type IA3"):
        load_low_rank(adapter)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 0}, "r = 0"),
        ({"r": -3}, "r = -3"),
        ({"r": "8"}, "r = '8'"),
        ({"r": True}, "r = True"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] = 0"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"target_modules": 3}, "target_modules"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
    ],
)
def test_malformed_fields_are_named(adapter, fields, said):
    edit_config(adapter, **fields)
    with pytest.raises(AdapterFormatError, match=said):
        load_low_rank(adapter)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"r": 8}', "[" * 100_000, "\xff\x00"])
def test_broken_config_file(adapter, text):
    (adapter / "adapter_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(AdapterFormatError, match=r"adapter_config\.json"):
        load_low_rank(adapter)


def test_no_folder_and_no_adapter(tmp_path):
    with pytest.raises(AdapterNotFoundError, match="does not exist"):
        load_low_rank(tmp_path / "nowhere")
    with pytest.raises(AdapterNotFoundError, match="no adapter"):
        load_low_rank(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(adapter, keep):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterFormatError, match="truncated or damaged"):
        load_low_rank(adapter)


def test_no_weights(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterFormatError, match=r"no adapter_model\.safetensors"):
        load_low_rank(adapter)


def test_a_pickle_is_refused_unread(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(b"never unpickled")
    with pytest.raises(AdapterFormatError, match=r"pickled weights .*save_pretrained"):
        load_low_rank(adapter)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_finite_weights_are_named(tmp_path, tiny_model, bad, dtype):
    folder = make_lora(tmp_path / "mine", tiny_model, rank=2, dtype=dtype)

    def spoil(tensors):
        tensors[f"{Q0}.lora_B.weight"][3, 1] = bad

    edit_weights(folder, spoil)
    with pytest.raises(AdapterFormatError, match=r"q_proj\.lora_B\.weight has NaN or infinite"):
        load_low_rank(folder)


@pytest.mark.parametrize(("lost", "left"), [("lora_A", "lora_B"), ("lora_B", "lora_A")])
def test_missing_partner(adapter, lost, left):
    edit_weights(adapter, lambda tensors: tensors.pop(f"{Q0}.{lost}.weight"))
    with pytest.raises(AdapterFormatError, match=f"q_proj has {left} but no {lost}"):
        load_low_rank(adapter)


def test_rank_of_tensors_and_config_must_agree(adapter):
    edit_config(adapter, r=8)
    with pytest.raises(AdapterFormatError, match="config says rank 8"):
        load_low_rank(adapter)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("base_model.model.model.embed_tokens.weight", "embeddings or the output layer"),
        ("base_model.model.lm_head.weight", "embeddings or the output layer"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        (f"{Q0}.lora_diag", "lora_diag"),
        (f"{Q0}.lora_magnitude_vector", "lora_magnitude_vector"),
        (f"{Q0}.lora_B.bias", r"lora_B\.bias"),
        ("surprise", "surprise"),
    ],
)
def test_unexpected_tensors_are_named(adapter, key, said):
    edit_weights(adapter, lambda tensors: tensors.update({key: torch.ones(4, 4)}))
    with pytest.raises(UnsupportedAdapterError, match=said):
        load_low_rank(adapter)


def test_integer_weights_are_refused(adapter):
    def quantise(tensors):
        tensors[f"{Q0}.lora_A.weight"] = tensors[f"{Q0}.lora_A.weight"].to(torch.int8)

    edit_weights(adapter, quantise)
    with pytest.raises(UnsupportedAdapterError, match=r"torch\.int8"):
        load_low_rank(adapter)


def test_other_base_by_shape(adapter, shapes):
    module = "model.layers.0.self_attn.q_proj"
    other = {**shapes, module: (64, 56)}
    with pytest.raises(BaseMismatchError, match=r"q_proj of shape \[64, 48\].*has \[64, 56\]"):
        load_low_rank(adapter, linears=other)


def test_target_that_the_base_lacks(adapter, shapes):
    fewer = {name: shape for name, shape in shapes.items() if ".2." not in name}
    with pytest.raises(BaseMismatchError, match=r"adapts model\.layers\.2\.\S+, which is no"):
        load_low_rank(adapter, linears=fewer)


def test_other_base_by_fingerprint(adapter):
    edit_weights(adapter, lambda tensors: None, {"format": "pt", "gossamer_base": "aaaa"})
    load_low_rank(adapter, base_fingerprint="aaaa")
    load_low_rank(adapter)
    with pytest.raises(BaseMismatchError, match="fingerprint aaaa"):
        load_low_rank(adapter, base_fingerprint="bbbb")


def test_an_unbound_adapter_is_judged_by_shape(adapter, shapes):
    load_low_rank(adapter, linears=shapes, base_fingerprint="anything")


def test_spec_of_every_module(adapter):
    edit_config(adapter, rank_pattern={"q_proj": 3}, alpha_pattern={"layers.0.*": 12})
    spec = lora_spec(adapter, read_config(adapter))
    assert spec.rank_of("model.layers.1.self_attn.q_proj") == 3
    assert spec.alpha_of("model.layers.0.self_attn.q_proj") == 12
    assert spec.scale_of("model.layers.0.self_attn.q_proj") == 4
    assert spec.target_modules == tuple(sorted(spec.raw["target_modules"]))
