"""Biases, norms, rows of tokens, bottlenecks: what PEFT wrote is read, what is wrong is named."""

import copy
import json

import pytest
import torch
from peft import (
    BeftConfig,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.inspect import inspect
from gossamer.adapters.kinds.trained_parts import merge_parts
from gossamer.adapters.load import load_adapter
from gossamer.adapters.merge import merge_into
from gossamer.adapters.reading.budget import Budget
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    CapacityError,
    UnsupportedAdapterError,
    UnsupportedModelError,
)
from gossamer.tuners import BottleneckConfig

from tiny import make_tiny_model, module_shapes

# PEFT takes a bias of B for a part of a factor that was not gathered.
# And it says that it saves the tables of tokens beside their factors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LoRA tensor:Warning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

CAUSAL = {"task_type": "CAUSAL_LM"}
TOKENS = [9, 3, 250]
CONFIGS = {
    "beft": BeftConfig(target_modules=["q_proj", "v_proj"], **CAUSAL),
    "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"], **CAUSAL),
    "tokens": TrainableTokensConfig(token_indices=TOKENS, **CAUSAL),
    "mixed": LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj"],
        bias="all",
        lora_bias=True,
        modules_to_save=["norm", "lm_head"],
        trainable_token_indices=TOKENS,
        **CAUSAL,
    ),
    "factors": LoraConfig(
        r=3, lora_alpha=7, target_modules=["q_proj", "embed_tokens", "lm_head"], **CAUSAL
    ),
    "bottleneck": BottleneckConfig(target_modules=["down_proj"], width=4, **CAUSAL),
}
PREFIX = "base_model.model."
LAYER = f"{PREFIX}model.layers.0."


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """With biases, and an untied output layer."""
    folder = tmp_path_factory.mktemp("model") / "qwen"
    return make_tiny_model(folder, model_type="qwen2", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def base(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def shape(model_folder, base):
    linears = module_shapes(model_folder)
    vectors = {
        name: len(parameter) for name, parameter in base.named_parameters() if parameter.dim() == 1
    }
    return BaseShape(
        linears=linears,
        num_layers=3,
        hidden_size=48,
        num_kv_heads=2,
        head_dim=16,
        vectors=vectors,
        tables={"model.embed_tokens": (259, 48), "lm_head": (259, 48)},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory, base):
    """Folders of what PEFT saved, by name; the weights are random."""
    root = tmp_path_factory.mktemp("adapters")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.3 * torch.randn_like(weight)
        model.save_pretrained(root / name)
    return root


@pytest.fixture
def changed(tmp_path, written):
    """Copies an adapter, with other fields and tensors."""

    def change(name, edit=None, **fields):
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((written / name / "adapter_config.json").read_text())
        tensors = load_file(written / name / "adapter_model.safetensors")
        if edit is not None:
            edit(tensors)
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return change


@pytest.mark.parametrize(
    ("name", "kind", "method", "rank", "targets"),
    [
        ("beft", "vector", "bitfit", None, ("q_proj", "v_proj")),
        ("norms", "vector", "ln_tuning", None, ("input_layernorm", "norm")),
        ("tokens", "tokens", "trainable_tokens", None, ("embed_tokens",)),
        ("mixed", "mixed", "lora", 2, ("embed_tokens", "q_proj", "v_proj")),
        ("factors", "mixed", "lora", 3, ("embed_tokens", "lm_head", "q_proj")),
        ("bottleneck", "bottleneck", "bottleneck", 4, ("down_proj",)),
    ],
)
def test_reads_and_describes_what_was_written(written, shape, name, kind, method, rank, targets):
    adapter, info = load_adapter(written / name, base=shape), inspect(written / name)
    assert (adapter.name, adapter.kind, adapter.max_rank) == (name, kind, rank)
    assert (info.kind, info.method, info.rank, info.targets) == (kind, method, rank, targets)
    assert info.digest == adapter.digest == load_adapter(written / name).digest


def test_rows_of_tokens_are_in_the_order_of_the_tokens(written, shape):
    rows = load_adapter(written / "tokens", base=shape).parts.rows["model.embed_tokens"]
    saved = load_file(written / "tokens" / "adapter_model.safetensors")
    (values,) = saved.values()
    assert rows.ids.tolist() == sorted(TOKENS)
    assert torch.equal(rows.values, values[[1, 0, 2]])


@pytest.mark.parametrize("base_is_known", [True, False])
def test_factors_of_tables_are_read_as_tokens_and_width(written, shape, base_is_known):
    adapter = load_adapter(written / "factors", base=shape if base_is_known else None)
    saved = load_file(written / "factors" / "adapter_model.safetensors")
    found = adapter.parts.factors
    assert list(adapter.inner.modules) == [f"model.layers.{n}.self_attn.q_proj" for n in range(3)]
    embedding, output = found["model.embed_tokens"], found["lm_head"]
    assert torch.equal(embedding.tokens, saved[f"{PREFIX}model.embed_tokens.lora_embedding_A"].T)
    assert torch.equal(embedding.width, saved[f"{PREFIX}model.embed_tokens.lora_embedding_B"].T)
    assert torch.equal(output.tokens, saved[f"{PREFIX}lm_head.lora_B.weight"])
    assert torch.equal(output.width, saved[f"{PREFIX}lm_head.lora_A.weight"])
    assert {(each.rank, each.scale) for each in found.values()} == {(3, 7 / 3)}


def test_factors_of_tables_are_merged_as_peft_merges_them(written, base):
    adapter = load_adapter(written / "factors")
    model = copy.deepcopy(base)
    merge_parts(adapter.name, adapter.parts, model)
    want = PeftModel.from_pretrained(copy.deepcopy(base), written / "factors").merge_and_unload()
    for path in ("model.embed_tokens", "lm_head"):
        own, theirs = (each.get_submodule(path).weight for each in (model, want))
        assert (own - theirs).abs().max() < 1e-6
    model.lm_head.weight = model.model.embed_tokens.weight
    with pytest.raises(UnsupportedModelError, match="merging would change both"):
        merge_parts(adapter.name, adapter.parts, model)


def drop(end):
    return lambda tensors: tensors.pop(next(key for key in tensors if key.endswith(end)))


def replace(end, value):
    def change(tensors):
        key = next(key for key in sorted(tensors) if key.endswith(end))
        tensors[key] = value

    return change


def add(key, *shape):
    return lambda tensors: tensors.update({key: torch.ones(shape)})


@pytest.mark.parametrize(
    ("name", "fields", "edit", "error", "match"),
    [
        ("beft", {"modules_to_save": ["norm"]}, None, UnsupportedAdapterError, "modules_to_save"),
        ("beft", {}, replace("beft_bias", torch.ones(64, 1)), AdapterFormatError, r"\[64, 1\]"),
        ("beft", {}, replace("beft_bias", torch.ones(1, 60)), BaseMismatchError, r"\[60\].*\[64\]"),
        ("beft", {}, add(f"{LAYER}x.beft_bias", 1, 4), BaseMismatchError, "0.x, which this"),
        ("beft", {}, add(f"{LAYER}mlp.up_proj.weight", 4), UnsupportedAdapterError, "up_proj"),
        ("norms", {}, add(f"{PREFIX}model.norm.bias", 48), BaseMismatchError, "norm.bias"),
        (
            "norms",
            {},
            replace("norm.ln_tuning_layers.weight", torch.ones(40)),
            BaseMismatchError,
            r"\[40\].*\[48\]",
        ),
        ("tokens", {"token_indices": [1, 2]}, None, AdapterFormatError, r"names 2 tokens"),
        ("tokens", {"token_indices": [1, 1, 2]}, None, AdapterFormatError, "names a token twice"),
        ("tokens", {"token_indices": []}, None, AdapterFormatError, "names no token"),
        ("tokens", {"token_indices": [-1, 2, 3]}, None, AdapterFormatError, "list of token ids"),
        ("tokens", {"token_indices": "all"}, None, AdapterFormatError, "list of token ids"),
        ("tokens", {"token_indices": [1, 2, 259]}, None, BaseMismatchError, "token 259.*259 rows"),
        ("tokens", {}, add(f"{PREFIX}lm_head.weight", 259, 48), UnsupportedAdapterError, "no row"),
        ("factors", {"r": 4}, None, AdapterFormatError, "says rank 4"),
        ("factors", {}, drop("lora_embedding_A"), AdapterFormatError, "one factor"),
        (
            "factors",
            {},
            replace("lora_embedding_A", torch.ones(3, 200)),
            BaseMismatchError,
            r"\[200, 48\].*\[259, 48\]",
        ),
        (
            "factors",
            {},
            replace("lm_head.lora_B.weight", torch.ones(259, 2)),
            AdapterFormatError,
            "factor B of lm_head",
        ),
        ("factors", {"use_dora": True}, None, UnsupportedAdapterError, "use_dora beside"),
        (
            "factors",
            {"ensure_weight_tying": True},
            None,
            UnsupportedAdapterError,
            "ensure_weight_tying beside",
        ),
        ("mixed", {"trainable_token_indices": None}, None, AdapterFormatError, "names no tokens"),
        (
            "mixed",
            {"trainable_token_indices": {"embed_tokens": [4]}},
            None,
            AdapterFormatError,
            "names 1 tokens",
        ),
        ("mixed", {}, replace("lm_head.weight", torch.ones(200, 48)), BaseMismatchError, "200"),
        (
            "mixed",
            {},
            add(f"{LAYER}mlp.up_proj.weight", 100, 48),
            UnsupportedAdapterError,
            r"whole layer model\.layers\.0\.mlp\.up_proj.*serve",
        ),
        (
            "mixed",
            {},
            add(f"{LAYER}mlp.up_proj.lora_B.bias", 100),
            AdapterFormatError,
            "bias of lora_B but no lora_A",
        ),
        ("mixed", {}, drop("lora_A.weight"), AdapterFormatError, "lora_B but no lora_A"),
        ("bottleneck", {"activation": "abs"}, None, UnsupportedAdapterError, "'abs'.*relu"),
        ("bottleneck", {"scale": "1"}, None, AdapterFormatError, "scale = '1'"),
        ("bottleneck", {}, drop("up.bias"), AdapterFormatError, "has no .bottleneck_up.bias"),
        (
            "bottleneck",
            {},
            replace("down.bias", torch.ones(5)),
            AdapterFormatError,
            r"\[4, 48\], \[5\]",
        ),
        ("bottleneck", {}, add(f"{LAYER}odd", 3), UnsupportedAdapterError, "0.odd"),
    ],
)
def test_what_is_wrong_is_named(changed, shape, name, fields, edit, error, match):
    folder = changed(name, edit, **fields)
    with pytest.raises(error, match=match) as caught:
        load_adapter(folder, base=shape)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_that_are_not_finite_and_weights_without_room(changed, written, shape, name):
    def poison(tensors):
        for tensor in tensors.values():
            tensor.view(-1)[-1] = float("inf")

    with pytest.raises(AdapterFormatError, match="NaN or infinite"):
        load_adapter(changed(name, poison), base=shape)
    with pytest.raises(CapacityError, match="serve with more --memory"):
        load_adapter(written / name, base=shape, budget=Budget(pool_bytes=100))


@pytest.mark.parametrize("name", ["beft", "norms", "tokens", "mixed"])
def test_merges_as_peft_does(written, base, name):
    ours = copy.deepcopy(base)
    merge_into(ours, written / name)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), written / name).merge_and_unload()
    for key, weight in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[key], weight, atol=1e-6), key


def test_what_cannot_be_merged_is_refused(written, base, tmp_path):
    with pytest.raises(UnsupportedAdapterError, match=r"networks behind layers.*gossamer serve"):
        merge_into(copy.deepcopy(base), written / "bottleneck")
    llama = make_tiny_model(tmp_path / "llama", tie_word_embeddings=True)
    other = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with pytest.raises(UnsupportedModelError, match=r"has no .*q_proj\.bias"):
        merge_into(other, written / "beft")
