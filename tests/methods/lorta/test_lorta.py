"""LoRTA: one tensor for all attention matrices; its equations, sharing, files."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from runs import quiet_tune
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.basemodel.versions import enable_checkpointing
from gossamer.errors import SettingError
from gossamer.methods.lorta.layer import LortaLinear
from gossamer.methods.lorta.model import LortaConfig
from gossamer.methods.lorta.tensor_map import make_plan

from tiny import make_tiny_model

SQUARE = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 12,
    "num_hidden_layers": 3,
}
TABLES = ("lorta_A", "lorta_B", "lorta_heads", "lorta_types", "lorta_layers")


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A model whose attention matrices are all d x d, as in the paper."""
    return make_tiny_model(tmp_path_factory.mktemp("square") / "model", **SQUARE)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def lorta(folder, *, trained=True, seed=0, **settings):
    torch.manual_seed(seed)
    model = get_peft_model(load(folder), LortaConfig(**{"rank": 5, **settings}))
    if trained:
        with torch.no_grad():
            model.base_model.lorta_B["default"].normal_(0, 0.5)
    return model


def tokens(rows=2, length=12):
    return torch.randint(5, 200, (rows, length), generator=torch.Generator().manual_seed(1))


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, LortaLinear)}


def factors(model, dtype=torch.float64):
    return [getattr(model.base_model, table)["default"].detach().to(dtype) for table in TABLES]


def published(factors, layer, kind, scale):
    """dW of the paper as [out, in]: heads side by side, each A diag(C_H * C_M * C_L) Bᵀ."""
    a, b, heads, types, blocks = factors
    parts = [a @ torch.diag(head * types[kind] * blocks[layer]) @ b.T for head in heads]
    return scale * torch.cat(parts, 1).T


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_it_starts_as_the_base(family, tmp_path):
    folder = make_tiny_model(tmp_path / family, model_type=family)
    model, ids = lorta(folder, trained=False), tokens()
    assert torch.equal(model(input_ids=ids).logits, load(folder)(input_ids=ids).logits)
    assert not model.base_model.lorta_B["default"].any()
    assert all(getattr(model.base_model, t)["default"].any() for t in TABLES if t != "lorta_B")


def test_cheap_forward_equals_the_whole_update(square):
    model = lorta(square, alpha=3.0).double()
    own, kinds = factors(model), ["q_proj", "k_proj", "v_proj", "o_proj"]
    inputs = torch.randn(7, 48, dtype=torch.float64)
    for path, module in layers(model).items():
        layer, kind = int(path.split("layers.")[1][0]), kinds.index(path.rsplit(".", 1)[1])
        change = published(own, layer, kind, 3.0 / 5)
        assert torch.allclose(module.get_delta_weight("default"), change, rtol=0, atol=1e-12)
        wanted = module.base_layer(inputs) + inputs @ change.T
        assert torch.allclose(module(inputs), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("hidden", "heads", "blocks", "rank", "expected"),
    [(4096, 32, 32, 64, 274_688), (5120, 40, 40, 64, 341_248), (4096, 32, 32, 1, 4_292)],
)
def test_it_has_as_many_weights_as_the_paper_says(hidden, heads, blocks, rank, expected):
    assert learning(hidden, heads, heads, blocks, rank) == expected
    assert expected == rank * (hidden + hidden // heads + heads + 4 + blocks)


def test_grouped_query_attention_adds_the_heads_of_keys_and_values():
    assert learning(4096, 32, 8, 32, 3) == 3 * (4096 + 128 + (32 + 8) + 4 + 32)


def learning(hidden, heads, kv_heads, blocks, rank):
    shape = {"hidden_size": hidden, "intermediate_size": 8, "num_hidden_layers": blocks}
    config = AutoConfig.for_model(
        "llama", num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=8, **shape
    )
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), LortaConfig(rank=rank))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_merging_equals_not_merging(tiny_model):
    model, ids = lorta(tiny_model).eval(), tokens()
    before = model(input_ids=ids).logits
    with model.disable_adapter():
        assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-2)
    model.merge_adapter()
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)
    assert torch.allclose(model.merge_and_unload()(input_ids=ids).logits, before, atol=1e-5)


def test_each_change_has_the_rank(square):
    for module in layers(lorta(square)).values():
        change = module.get_delta_weight("default").detach().double()
        assert torch.linalg.matrix_rank(change, rtol=1e-5) <= 5


def test_gradients_equal_autograd_through_the_tensor(square):
    model = lorta(square, alpha=3.0).double()
    torch.manual_seed(3)
    inputs, seeds = {}, {}
    for path, module in layers(model).items():
        inputs[path] = torch.randn(4, 48, dtype=torch.float64)
        seeds[path] = torch.randn(4, 48, dtype=torch.float64)
        (module(inputs[path]) * seeds[path]).sum().backward()
    own = [factor.clone().requires_grad_() for factor in factors(model)]
    # The tensor [layers, matrices, in, heads, width of a head] written out.
    whole = torch.einsum("ir,wr,hr,mr,lr->lmihw", *own) * 3.0 / 5
    total, kinds = 0.0, ["q_proj", "k_proj", "v_proj", "o_proj"]
    for path in inputs:
        layer, kind = int(path.split("layers.")[1][0]), kinds.index(path.rsplit(".", 1)[1])
        total = total + (inputs[path] @ whole[layer, kind].reshape(48, 48) * seeds[path]).sum()
    total.backward()
    for table, expected in zip(TABLES, own, strict=True):
        found = getattr(model.base_model, table)["default"].grad
        assert torch.allclose(found, expected.grad, rtol=1e-9, atol=1e-10), table


def test_start_sizes():
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SQUARE))
    base = base.to_empty(device="cpu")
    model = get_peft_model(base, LortaConfig(rank=24))
    tables = {table: getattr(model.base_model, table)["default"].detach() for table in TABLES}
    largest = {table: float(value.abs().max()) for table, value in tables.items()}
    assert 0.95 * 24**-0.5 <= largest["lorta_A"] <= 24**-0.5
    # Small factors have few entries to come near their bound.
    assert 0.8 * (6 / 24) ** 0.5 <= largest["lorta_layers"] <= (6 / 24) ** 0.5


def gradients(model, ids):
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def compare(one, other):
    assert len(one) == len(other) == 5
    for (name, a), b in zip(one.items(), other.values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def test_shared_factors_under_gradient_checkpointing(tiny_model):
    model, ids = lorta(tiny_model).train(), tokens()
    plain = gradients(model, ids)
    enable_checkpointing(model.get_base_model(), {"use_reentrant": False})
    compare(gradients(model, ids), plain)


def test_shared_factors_under_data_parallel(tiny_model, tmp_path):
    model, ids = lorta(tiny_model).train(), tokens()
    plain = gradients(model, ids)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        compare(gradients(DistributedDataParallel(model), ids), plain)
    finally:
        torch.distributed.destroy_process_group()


def test_files_hold_the_five_factors_once(tiny_model, tmp_path):
    model, ids = lorta(tiny_model).eval(), tokens()
    expected = model(input_ids=ids).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert set(stored) == {f"base_model.{table}" for table in TABLES}
    for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        again = PeftModel.from_pretrained(load(tiny_model), tmp_path, **options).eval()
        assert torch.equal(again(input_ids=ids).logits, expected)
        trainable = [p.requires_grad for n, p in again.named_parameters() if "lorta_" in n]
        assert set(trainable) == {bool(options.get("is_trainable"))}
    assert torch.equal(copy.deepcopy(again)(input_ids=ids).logits, expected)


def test_two_adapters(tiny_model):
    model, ids = lorta(tiny_model).eval(), tokens()
    first = model(input_ids=ids).logits
    model.add_adapter("other", LortaConfig(rank=2, target_modules=["q_proj", "v_proj"]))
    assert torch.equal(model(input_ids=ids).logits, first)
    model.set_adapter("other")
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == 5
    assert all(name.endswith(".other") for name in learning)
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits, base)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(model(input_ids=ids).logits, first)
    assert not any("other" in name for name, _ in model.named_parameters())


def test_tune_leaves_a_plain_lora_adapter(tiny_model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(8)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    settings = {"method": "lorta", "rank": 6, "learning_rate": 5e-2, "max_steps": 6}
    run = quiet_tune(tiny_model, rows, tmp_path / "run", batch_size=4, **settings)
    assert run.losses[-1] < run.losses[0]
    config = json.loads((run.output / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 6)
    native = PeftModel.from_pretrained(load(tiny_model), run.output / "checkpoints" / "step-6")
    assert native.peft_config["default"].peft_type == "GOSSAMER_LORTA"
    plain = PeftModel.from_pretrained(load(tiny_model), run.output)
    ids = tokens()
    one, other = (model.eval()(input_ids=ids).logits for model in (native, plain))
    assert torch.allclose(one, other, atol=1e-5)
    with plain.disable_adapter():
        assert not torch.allclose(plain(input_ids=ids).logits, one, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank = 0"),
        ({"alpha": 0}, "alpha = 0"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"init_scale": -1}, "init_scale = -1"),
        ({"target_modules": ["q_proj", "up_proj"]}, "choose among q_proj, k_proj, v_proj, o_proj"),
        ({"target_modules": "all-linear"}, "all-linear: lorta spans the matrices of attention"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(SettingError) as raised:
        LortaConfig(**settings)
    assert message in str(raised.value)


def test_matrices_that_do_not_split_into_heads():
    shape = SimpleNamespace(num_attention_heads=5, num_key_value_heads=5, num_hidden_layers=1)
    config = SimpleNamespace(get_text_config=lambda: shape)
    matrices = [("layers.0.q_proj", 48, 50), ("layers.0.o_proj", 50, 48)]
    with pytest.raises(SettingError, match=r"48 outputs of layers\.0\.o_proj do not split into 5"):
        make_plan(config, matrices, ["q_proj", "o_proj"])
    assert make_plan(config, matrices[:1], ["q_proj"]).parameters(2) == 2 * (48 + 10 + 5 + 1 + 1)
