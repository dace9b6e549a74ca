"""What LoRA and rsLoRA must satisfy, on single layers in float64."""

import copy

import pytest
import torch
from method_helpers import build, counted, double_layer, gradients, logits, random_factors
from transformers import AutoConfig

from tiny import make_tiny_model, module_shapes

X = torch.randn(3, 7, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LORAS = ["lora", "rslora"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose query layer is [512, 64]."""
    return make_tiny_model(
        tmp_path_factory.mktemp("wide"), hidden_size=64, num_attention_heads=8, head_dim=64
    )


@pytest.mark.parametrize("name", LORAS)
def test_starts_as_the_base(name):
    layer = double_layer(name)
    assert torch.equal(layer(X), layer.get_base_layer()(X))


def test_lora_has_as_many_weights_as_the_ranks_say(wide):
    config = AutoConfig.from_pretrained(wide)
    assert module_shapes(wide)["model.layers.0.self_attn.q_proj"] == (512, 64)
    one = {"target_modules": ["q_proj"], "layers": [0], "rank": 8}
    assert counted("lora", config, **one) == 4_608
    roberta = AutoConfig.for_model("roberta", is_decoder=True)
    assert counted("lora", roberta, target_modules=["query", "value"], rank=8) == 294_912


@pytest.mark.parametrize("name", LORAS)
def test_merging_is_exact(name):
    layer = double_layer(name)
    random_factors(layer)
    base = layer.get_base_layer().weight.detach().clone()
    before = layer(X)
    layer.merge()
    assert (layer(X) - before).abs().max() < 1e-12 * before.abs().max()
    layer.unmerge()
    assert (layer.get_base_layer().weight - base).abs().max() < 1e-6


def test_only_b_moves_in_the_first_step():
    layer = double_layer("lora")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    start = a.detach().clone()
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    layer(X).square().sum().backward()
    assert not a.grad.any()
    assert b.grad.any()
    optimizer.step()
    assert torch.equal(a, start)
    assert b.any()


def test_the_update_has_the_rank():
    layer = double_layer("lora", rank=3)
    random_factors(layer)
    base = layer.get_base_layer().weight.detach().clone()
    layer.merge()
    values = torch.linalg.svdvals(layer.get_base_layer().weight.detach() - base)
    assert values[2] > 1e-3 * values[0]
    assert (values[3:] < 1e-6 * values[0]).all()


def test_alpha_doubles_the_update_and_the_base_stays():
    changes = []
    for alpha in (8, 16):
        layer = double_layer("lora", alpha=alpha)
        random_factors(layer)
        changes.append(layer(X) - layer.get_base_layer()(X))
    assert torch.allclose(changes[1], 2 * changes[0], rtol=1e-12)
    _, model, _ = build("lora")
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    bytes_before = {n: p.detach().clone() for n, p in frozen.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        gradients(model)
        optimizer.step()
    assert all(p.grad is None for p in frozen.values())
    assert all(torch.equal(p, bytes_before[n]) for n, p in frozen.items())


def test_rslora_scales_by_the_root_of_the_rank():
    settings = {"rank": 64, "alpha": 16}
    assert double_layer("rslora", **settings).scaling["default"] == 2.0
    assert double_layer("lora", **settings).scaling["default"] == 0.25


def test_rslora_of_rank_1_is_lora():
    outputs = []
    for name in LORAS:
        layer = double_layer(name, rank=1, alpha=4)
        random_factors(layer)
        outputs.append(layer(X))
    assert torch.equal(*outputs)


def test_the_update_of_rslora_keeps_its_size_as_ranks_grow():
    generator = torch.Generator().manual_seed(0)
    k, ranks = 4096, [4, 32, 512]
    x = torch.randn(64, k, generator=generator)
    sizes: dict[str, list[float]] = {name: [] for name in LORAS}
    for rank in ranks:
        a = torch.randn(rank, k, generator=generator) / k**0.5
        b = torch.randn(1024, rank, generator=generator)
        spread = (x @ a.T @ b.T).std().item()
        for name in LORAS:
            # The layer only tells the scale; a rank above its size does not matter for that.
            layer = double_layer(name, rank=rank, alpha=8)
            sizes[name].append(layer.scaling["default"] * spread)
    stable, falling = torch.tensor(sizes["rslora"]), torch.tensor(sizes["lora"])
    assert (stable / stable.mean() - 1).abs().max() < 0.05
    expected = falling[0] * (torch.tensor(ranks, dtype=torch.float) / ranks[0]) ** -0.5
    assert torch.allclose(falling, expected, rtol=0.1)


def test_dropout_acts_while_training_only():
    layer = double_layer("lora", dropout=0.5)
    random_factors(layer)
    layer.train()
    assert not torch.equal(layer(X), layer(X))
    layer.eval()
    assert torch.equal(layer(X), layer(X))


def test_a_second_merge_is_no_change():
    """A train-eval switch or a second call must not add the update twice."""
    layer = copy.deepcopy(double_layer("lora"))
    random_factors(layer)
    layer.merge()
    once = layer.get_base_layer().weight.detach().clone()
    with pytest.warns(UserWarning, match="already merged, nothing to do"):
        layer.merge()
    assert torch.equal(layer.get_base_layer().weight, once)


def test_shira_changes_masked_entries_only():
    """Off the mask every bit stays, weight decay and momentum on; subtracting restores the base."""
    _, model, _ = build("shira")
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    start = logits(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        gradients(model)
        optimizer.step()
    assert not torch.allclose(logits(model), start, atol=1e-2)
    model.merge_adapter()
    merged = dict(model.named_parameters())
    for name, module in model.named_modules():
        if hasattr(module, "shira_indices"):
            rows, columns = module.shira_indices["default"].long()
            weight = f"{name}.base_layer.weight"
            off = torch.ones_like(before[weight], dtype=torch.bool)
            off[rows, columns] = False
            assert torch.equal(merged[weight][off], before[weight][off])
            assert off.numel() - off.sum() == 4 * sum(off.shape)
    model.unmerge_adapter()
    for name, tensor in before.items():
        assert torch.allclose(merged[name], tensor, atol=1e-6)


@pytest.mark.parametrize("mask", ["magnitude", "gradient", "snip"])
def test_shira_takes_the_entries_with_the_highest_scores(mask):
    _, model, _ = build("shira", mask=mask, probe_steps=2, target_modules=["v_proj"])
    _, plain, _ = build("full")
    found = gradients(plain.eval())
    # A probe is made in the state in which the model comes, without dropout.
    for name, module in model.named_modules():
        if not hasattr(module, "shira_indices"):
            continue
        path = name.removeprefix("base_model.model.") + ".weight"
        weight = module.get_base_layer().weight.detach()
        scores = {
            "magnitude": weight.abs(),
            "gradient": found[path].abs(),
            "snip": (weight * found[path]).abs(),
        }[mask]
        rows, columns = module.shira_indices["default"].long()
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen[rows, columns] = True
        assert scores[chosen].min() >= scores[~chosen].max() * (1 - 1e-4)


def test_shira_masks_differ_between_layers():
    _, model, _ = build("shira")
    k, v = (
        model.get_submodule(f"base_model.model.model.layers.0.self_attn.{n}").shira_indices[
            "default"
        ]
        for n in ("k_proj", "v_proj")
    )
    assert k.shape == v.shape
    assert not torch.equal(k, v)


def test_other_methods_have_as_many_weights_as_published():
    """The published counts of the baselines."""
    medium = AutoConfig.for_model(
        "llama",
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        intermediate_size=64,
        vocab_size=64,
    )
    assert counted("prompt_tuning", medium, tokens=8) == 8_192
    assert counted("prefix_tuning", medium, tokens=20) == 983_040
    assert counted("p_tuning", medium, tokens=20, encoder_size=128) == 300_288
    roberta = AutoConfig.for_model("roberta", is_decoder=True)
    assert counted("houlsby", roberta, target_modules=["output.dense"], width=64) == 2_379_264
    # The norms' biases stay as they are; one linear layer belongs to the head.
    assert counted("bitfit", roberta) == 12 * (4 * 768 + 3_072 + 768) + 768


def test_a_fresh_bottleneck_changes_nothing():
    for name in ("houlsby", "pfeiffer"):
        _, model, _ = build(name)
        start = logits(model)
        with model.disable_adapter():
            assert torch.equal(start, logits(model))
