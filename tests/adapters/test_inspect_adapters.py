import json
import os

import pytest
import torch
from safetensors.torch import load_file

from gossamer.adapters.inspect import digest, find_adapters, inspect
from gossamer.adapters.load import load_adapter
from gossamer.adapters.write import bind_to_base, write_low_rank
from gossamer.errors import AdapterFormatError, AdapterNotFoundError, UsageError

from tiny import make_lora


@pytest.fixture
def adapter(tmp_path, tiny_model):
    return make_lora(
        tmp_path / "mine",
        tiny_model,
        rank=4,
        targets=("q_proj", "up_proj"),
        rank_pattern={"up_proj": 2},
        use_rslora=True,
    )


def edit_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_describes_an_adapter(adapter, tiny_model):
    os.utime(adapter / "adapter_model.safetensors", (1_700_000_000, 1_700_000_000))
    info = inspect(adapter)
    # q_proj 48 -> 64 at rank 4, up_proj 48 -> 100 at rank 2, in 3 layers.
    parameters = 3 * (4 * (48 + 64) + 2 * (48 + 100))
    assert (info.name, info.kind, info.method) == ("mine", "low-rank", "rslora")
    assert (info.rank, info.ranks) == (4, (2, 4))
    assert info.targets == ("q_proj", "up_proj")
    assert (info.num_parameters, info.num_bytes) == (parameters, 4 * parameters)
    assert info.dtype == "float32"
    assert info.base == str(tiny_model)
    assert info.created == 1_700_000_000
    assert info.digest == digest(adapter) == load_adapter(adapter).digest


def test_describes_what_cannot_be_served(adapter):
    edit_config(adapter, use_dora=True)
    assert (inspect(adapter).kind, inspect(adapter).method) == ("gain", "dora")
    edit_config(adapter, use_dora=False, use_rslora=False, peft_type="SHIRA")
    assert (inspect(adapter).kind, inspect(adapter).method) == ("sparse", "shira")


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["up_proj", "q_proj"]},
        {"base_model_name_or_path": "elsewhere"},
        {"inference_mode": True, "peft_version": "9"},
        {"lora_dropout": 0.3},
        {"lora_alpha": 4.0},
        {"use_dora": False, "exclude_modules": None},
        {"init_lora_weights": "gaussian"},
        {"gossamer_run": "x"},
    ],
)
def test_digest_ignores_what_has_no_effect(adapter, fields):
    before = digest(adapter)
    edit_config(adapter, **fields)
    assert digest(adapter) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": 5},
        {"use_rslora": False},
        {"alpha_pattern": {"q_proj": 3}},
        {"init_lora_weights": "pissa"},
        {"use_some_future_variant": True},
    ],
)
def test_digest_sees_what_has_an_effect(adapter, fields):
    before = digest(adapter)
    edit_config(adapter, **fields)
    assert digest(adapter) != before


def test_digest_sees_the_order_of_patterns(adapter):
    edit_config(adapter, alpha_pattern={"q_proj": 3, "self_attn.q_proj": 4})
    before = digest(adapter)
    edit_config(adapter, alpha_pattern={"self_attn.q_proj": 4, "q_proj": 3})
    assert digest(adapter) != before


def test_digest_sees_every_weight(tmp_path, tiny_model):
    one = make_lora(tmp_path / "one", tiny_model, rank=2, seed=1)
    two = make_lora(tmp_path / "two", tiny_model, rank=2, seed=2)
    same = make_lora(tmp_path / "same", tiny_model, rank=2, seed=1)
    assert digest(one) == digest(same) != digest(two)


def test_finds_adapters_by_name(tmp_path, tiny_model, adapter):
    make_lora(tmp_path / "also", tiny_model, rank=1)
    make_lora(tmp_path / ".being-written", tiny_model, rank=1)
    make_lora(tmp_path / "deeper" / "one", tiny_model, rank=1)
    (tmp_path / "notes.txt").write_text("no adapter")
    assert find_adapters(tmp_path) == [tmp_path / "also", tmp_path / "mine"]
    assert find_adapters(adapter) == [adapter]
    with pytest.raises(AdapterNotFoundError, match="no folder"):
        find_adapters(tmp_path / "nowhere")


def test_digest_does_not_depend_on_the_order_in_the_file(adapter):
    """PEFT's files are in the order of names; any other is allowed."""
    before = digest(adapter)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    names = [*sorted(tensors)[1::2], *sorted(tensors, reverse=True)[1::2]]
    names += [name for name in tensors if name not in names]
    header, data = {}, b""
    for name in names:
        content = tensors[name].contiguous().numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert load_file(path).keys() == tensors.keys()
    assert digest(adapter) == before
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80?")
    assert digest(adapter) != before


def test_writes_the_same_bytes_each_time(tmp_path, adapter):
    factors = load_adapter(adapter).factors
    shuffled = dict(reversed(list(factors.items())))
    one = write_low_rank(tmp_path / "one", factors, base_fingerprint="ff")
    two = write_low_rank(tmp_path / "two", shuffled, base_fingerprint="ff")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    back = load_adapter(one, base_fingerprint="ff").factors
    assert all(
        torch.equal(back[m].a, f.a) and torch.equal(back[m].b, f.b) for m, f in factors.items()
    )
    assert {m: f.scale for m, f in back.items()} == pytest.approx(
        {m: f.scale for m, f in factors.items()}
    )


def test_writing_replaces_only_on_request(tmp_path, adapter):
    factors = load_adapter(adapter).factors
    before = digest(adapter)
    with pytest.raises(UsageError, match="exists"):
        write_low_rank(adapter, {"lm_head": next(iter(factors.values()))})
    assert digest(adapter) == before
    write_low_rank(adapter, dict(list(factors.items())[:1]), overwrite=True)
    assert len(load_adapter(adapter).factors) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_writing_refuses_a_config_that_says_something_else(tmp_path, adapter):
    loaded = load_adapter(adapter)
    config = {**loaded.spec.raw, "lora_alpha": 3}
    with pytest.raises(AdapterFormatError, match="scale"):
        write_low_rank(tmp_path / "new", loaded.factors, config)
    assert not (tmp_path / "new").exists()


def test_binding_to_a_base_keeps_the_weights(adapter):
    before = load_adapter(adapter)
    bind_to_base(adapter, "abc")
    after = load_adapter(adapter, base_fingerprint="abc")
    assert after.digest == before.digest
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
