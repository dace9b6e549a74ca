"""Readers of every kind: what PEFT wrote is read, what is wrong is refused by name."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    ShiraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.inspect import inspect
from gossamer.adapters.load import load_adapter
from gossamer.adapters.merge import merge_into
from gossamer.adapters.write import bind_to_base
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    UnsupportedAdapterError,
)

from tiny import make_lora, make_tiny_model, module_shapes

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

CAUSAL = {"task_type": "CAUSAL_LM"}
CONFIGS = {
    "dora": LoraConfig(r=3, use_dora=True, target_modules=["q_proj", "down_proj"], **CAUSAL),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL
    ),
    "shira": ShiraConfig(r=2, target_modules=["q_proj", "v_proj"], **CAUSAL),
    "prompt": PromptTuningConfig(num_virtual_tokens=4, **CAUSAL),
    "prefix": PrefixTuningConfig(num_virtual_tokens=6, **CAUSAL),
}
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """With biases, and an untied output layer."""
    folder = tmp_path_factory.mktemp("model") / "qwen"
    return make_tiny_model(folder, model_type="qwen2", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def base(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("proj.bias"):
            parameter.data.normal_()
    return model


@pytest.fixture(scope="module")
def shape(model_folder):
    return BaseShape(
        linears=module_shapes(model_folder),
        num_layers=3,
        hidden_size=48,
        num_kv_heads=2,
        head_dim=16,
    )


@pytest.fixture
def saved(tmp_path, base):
    """Saves with PEFT an adapter whose weights are random."""

    def save(name, config=None):
        torch.manual_seed(0)
        model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config or CONFIGS[name]))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.normal_(0.5, 0.5)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def reft(folder, *, layers=(0, 2), rank=2, tied=True, width=48, **fields):
    groups = ("",) if tied else ("", "last_")
    tensors = {
        f"{PREFIX}model.layers.{layer}.reft_{group}{part}": torch.randn(*size)
        for layer in layers
        for group in groups
        for part, size in {
            "rotate": (rank, width),
            "weight": (rank, width),
            "bias": (rank,),
        }.items()
    }
    config = {
        "peft_type": "GOSSAMER_REFT",
        "variant": "loreft",
        "rank": rank,
        "layers": list(layers),
        "first_positions": 2,
        "last_positions": 3,
        "tied": tied,
        **fields,
    }
    return write(folder, config, tensors)


def smt(folder, *, places=((0, 0, 4, 8), (40, 30, 8, 18)), path="model.layers.1.self_attn.q_proj"):
    count = sum(height * width for _, _, height, width in places)
    tensors = {
        f"{PREFIX}{path}.smt_blocks": torch.tensor(places, dtype=torch.int32),
        f"{PREFIX}{path}.smt_values": torch.randn(count),
    }
    return write(folder, {"peft_type": "GOSSAMER_SMT"}, tensors)


def write(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def edit_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


# What PEFT writes is read and described.


@pytest.mark.parametrize(
    ("name", "kind", "rank", "targets"),
    [
        ("dora", "gain", 3, ("down_proj", "q_proj")),
        ("ia3", "gain", None, ("down_proj", "k_proj")),
        ("shira", "sparse", None, ("q_proj", "v_proj")),
        ("prompt", "prefix", None, ()),
        ("prefix", "prefix", None, ()),
    ],
)
def test_reads_and_describes_what_peft_writes(saved, shape, name, kind, rank, targets):
    folder = saved(name)
    adapter, info = load_adapter(folder, base=shape), inspect(folder)
    assert (adapter.name, adapter.kind, adapter.max_rank) == (name, kind, rank)
    assert (info.kind, info.rank, info.targets) == (kind, rank, targets)
    assert info.digest == adapter.digest == load_adapter(folder).digest


def test_reads_and_describes_our_own_types(tmp_path, shape):
    adapter = load_adapter(reft(tmp_path / "reft", tied=False), base=shape)
    assert (adapter.kind, adapter.max_rank, sorted(adapter.first)) == ("intervention", 2, [0, 2])
    assert adapter.first[0] is not adapter.last[0]
    tied = load_adapter(reft(tmp_path / "tied"), base=shape)
    assert tied.first == tied.last
    info = inspect(tmp_path / "reft")
    assert (info.kind, info.method, info.rank) == ("intervention", "loreft", 2)
    adapter, info = load_adapter(smt(tmp_path / "smt"), base=shape), inspect(tmp_path / "smt")
    assert (adapter.kind, info.kind, info.method) == ("sparse", "sparse", "smt")
    assert info.targets == ("q_proj",)


def test_shira_indices_as_windows_writes_them(saved, shape):
    folder = saved("shira")
    want = load_adapter(folder, base=shape).deltas
    edit_tensors(
        folder, lambda t: t.update({k: v.float() for k, v in t.items() if k.endswith("indices")})
    )
    got = load_adapter(folder, base=shape).deltas
    assert all(torch.equal(got[path].rows, want[path].rows) for path in want)


def test_an_adapter_bound_to_another_base_is_refused(saved, tmp_path):
    for folder in (saved("shira"), saved("prompt"), reft(tmp_path / "reft"), saved("ia3")):
        bind_to_base(folder, "a" * 64)
        assert load_adapter(folder, base_fingerprint="a" * 64)
        with pytest.raises(BaseMismatchError, match="fingerprint aaaa"):
            load_adapter(folder, base_fingerprint="b" * 64)


# What is wrong is refused by name.

WRONG = [
    ("shira", {"modules_to_save": ["lm_head"]}, UnsupportedAdapterError, "modules_to_save"),
    ("shira", {"fan_in_fan_out": True}, UnsupportedAdapterError, "fan_in_fan_out"),
    ("ia3", {"some_new_switch": True}, UnsupportedAdapterError, "some_new_switch"),
    ("prompt", {"num_virtual_tokens": 5}, AdapterFormatError, "5 virtual tokens"),
    ("prompt", {"num_virtual_tokens": True}, AdapterFormatError, "num_virtual_tokens"),
    ("prompt", {"num_transformer_submodules": 2}, UnsupportedAdapterError, "submodules = 2"),
    ("prefix", {"num_layers": 5}, AdapterFormatError, "do not divide"),
    ("prefix", {"num_attention_heads": 4}, BaseMismatchError, r"\[3, 4, 8\].*\[3, 2, 16\]"),
    ("dora", {"lora_bias": True}, UnsupportedAdapterError, "lora_bias beside use_dora"),
    ("ia3", {"peft_type": "VERA"}, UnsupportedAdapterError, "VERA"),
    ("ia3", {"peft_type": "MADE_UP"}, UnsupportedAdapterError, "MADE_UP.*merge_and_unload"),
    ("ia3", {"peft_type": "GOSSAMER_SLORA"}, UnsupportedAdapterError, "gossamer adapters convert"),
]


@pytest.mark.parametrize(("name", "fields", "error", "match"), WRONG)
def test_wrong_configs(saved, shape, name, fields, error, match):
    folder = edit_config(saved(name), **fields)
    with pytest.raises(error, match=match) as caught:
        load_adapter(folder, base=shape)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"variant": "reft9"}, UnsupportedAdapterError, "reft9.*loreft"),
        ({"first_positions": -1}, AdapterFormatError, "first_positions = -1"),
        ({"last_positions": 1.5}, AdapterFormatError, "last_positions = 1.5"),
        ({"tied": "yes"}, AdapterFormatError, "tied"),
        ({"tied": False}, AdapterFormatError, "both must be the same"),
    ],
)
def test_wrong_interventions(tmp_path, shape, fields, error, match):
    folder = edit_config(reft(tmp_path / "mine"), **fields)
    with pytest.raises(error, match=match):
        load_adapter(folder, base=shape)


def first_key(tensors, end):
    return next(key for key in sorted(tensors) if key.endswith(end))


def poison(tensors):
    key = max(tensors, key=lambda k: tensors[k].is_floating_point())
    tensors[key].view(-1)[0] = float("nan")


@pytest.mark.parametrize("name", [*CONFIGS, "reft", "smt"])
def test_weights_that_are_not_finite(saved, tmp_path, name):
    own = {"reft": reft, "smt": smt}
    folder = own[name](tmp_path / name) if name in own else saved(name)
    with pytest.raises(AdapterFormatError, match="NaN"):
        load_adapter(edit_tensors(folder, poison))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("shira", "shira_indices"),
        ("smt", "smt_values"),
        ("reft", "reft_bias"),
        ("dora", "lora_A.weight"),
    ],
)
def test_a_missing_part_is_named(saved, tmp_path, name, end):
    own = {"reft": reft, "smt": smt}
    folder = own[name](tmp_path / name) if name in own else saved(name)
    edit_tensors(folder, lambda t: t.pop(first_key(t, end)))
    with pytest.raises(AdapterFormatError, match=rf"adapter {name}.*(has|but) no"):
        load_adapter(folder)


def test_tensors_that_belong_to_nothing(saved, tmp_path):
    extra = {f"{PREFIX}lm_head.weight": torch.ones(3, 48)}
    for folder in (saved("shira"), saved("ia3"), saved("prompt"), reft(tmp_path / "reft")):
        edit_tensors(folder, lambda t: t.update(extra))
        with pytest.raises(UnsupportedAdapterError, match=r"lm_head\.weight"):
            load_adapter(folder)


@pytest.mark.parametrize(
    ("places", "error", "match"),
    [
        (((60, 0, 8, 4),), BaseMismatchError, r"up to \[68, 4\].*\[64, 48\]"),
        (((0, 45, 1, 4),), BaseMismatchError, r"\[1, 49\]"),
        (((-1, 0, 2, 2),), AdapterFormatError, "below row"),
        (((0, 0, 2, 0),), AdapterFormatError, "0 entries"),
    ],
)
def test_blocks_outside_the_weight(tmp_path, shape, places, error, match):
    with pytest.raises(error, match=match):
        load_adapter(smt(tmp_path / "mine", places=places), base=shape)


def test_another_base_shape(tmp_path, saved, shape):
    with pytest.raises(BaseMismatchError, match=r"\[2, 40\].*\[2, 48\]"):
        load_adapter(reft(tmp_path / "reft", width=40), base=shape)
    with pytest.raises(BaseMismatchError, match=r"block 3.*has 3"):
        load_adapter(reft(tmp_path / "deep", layers=(3,)), base=shape)
    with pytest.raises(BaseMismatchError, match=r"model\.layers\.7"):
        load_adapter(smt(tmp_path / "smt", path="model.layers.7.mlp.up_proj"), base=shape)
    uneven = replace(shape, layer_kv_heads=(2, 1, 2))
    with pytest.raises(BaseMismatchError, match="unlike numbers of them"):
        load_adapter(saved("prefix"), base=uneven)
    small = BaseShape(linears={}, num_layers=3, hidden_size=32, num_kv_heads=2, head_dim=16)
    with pytest.raises(BaseMismatchError, match=r"\[4, 48\].*\[4, 32\]"):
        load_adapter(saved("prompt"), base=small)


# Merging.


@pytest.mark.parametrize("name", ["dora", "ia3", "shira"])
def test_merges_as_peft_does(saved, base, name):
    folder = saved(name)
    ours = copy.deepcopy(base)
    count = merge_into(ours, folder)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload()
    assert count == 6
    for key, weight in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[key], weight, atol=1e-6), key


def test_merges_blocks(tmp_path, base):
    folder = smt(tmp_path / "smt")
    values = load_file(folder / "adapter_model.safetensors")[
        f"{PREFIX}model.layers.1.self_attn.q_proj.smt_values"
    ]
    ours = copy.deepcopy(base)
    assert merge_into(ours, folder) == 1
    change = (
        ours.model.layers[1].self_attn.q_proj.weight - base.model.layers[1].self_attn.q_proj.weight
    )
    assert torch.allclose(change[:4, :8], values[:32].view(4, 8), atol=1e-6)
    assert torch.allclose(change[40:48, 30:48], values[32:].view(8, 18), atol=1e-6)
    change[:4, :8] = change[40:48, 30:48] = 0
    assert not change.any()


def test_what_changes_no_weights_is_not_merged(saved, tmp_path, base):
    for folder in (saved("prompt"), saved("prefix"), reft(tmp_path / "reft")):
        with pytest.raises(UnsupportedAdapterError, match=r"changes no weights.*gossamer serve"):
            merge_into(base, folder)


def test_lora_still_comes_in_by_the_same_door(tmp_path, model_folder, shape):
    folder = make_lora(tmp_path / "plain", model_folder, rank=4)
    assert load_adapter(folder, base=shape).kind == "low-rank"
