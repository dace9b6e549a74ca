"""The edit itself: the equations, orthonormal rows, the start, the counts."""

import pytest
import torch
from peft import get_peft_model
from reft_models import load, outputs_of_blocks, reft, tokens
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.errors import SettingError
from gossamer.methods.reft.layer import edit
from gossamer.methods.reft.model import ReftConfig
from gossamer.methods.reft.orthonormal import polar, random_rows, restore_orthonormal, tangent


def test_the_edit_acts_in_the_subspace_only():
    torch.manual_seed(0)
    rotate = polar(random_rows(4, 24).double())
    weight, bias = torch.randn(4, 24).double(), torch.randn(4).double()
    hidden = torch.randn(9, 24).double()
    after = hidden + edit(hidden, rotate, weight, bias, subtract=True)
    wanted = hidden @ weight.T + bias
    assert torch.allclose(after @ rotate.T, wanted, rtol=0, atol=1e-12)
    moved = after - hidden
    assert (moved - moved @ rotate.T @ rotate).abs().max() < 1e-12


def test_the_layer_computes_the_published_equations(tiny_model):
    ids = tokens()
    for variant in ("loreft", "direft", "nodireft"):
        model = reft(tiny_model, variant=variant, layers=[1])
        with model.disable_adapter():
            before, _ = outputs_of_blocks(model, input_ids=ids)
        after, _ = outputs_of_blocks(model, input_ids=ids)
        block = model.get_base_model().model.layers[1]
        r, w, b = (
            getattr(block, f"reft_{part}")["default"] for part in ("rotate", "weight", "bias")
        )
        for column in (0, 1, 11, 12, 13):
            for row in range(2):
                h = before[1][row, column]
                inner = w @ h + b - (r @ h if variant == "loreft" else 0)
                assert torch.allclose(after[1][row, column], h + r.T @ inner, atol=1e-4), variant


@pytest.mark.parametrize("fused", [False, True])
def test_rows_stay_orthonormal_over_100_steps(fused, tiny_model):
    model = reft(tiny_model)
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=3e-2, weight_decay=0.1, fused=fused)
    ids = tokens(length=8)
    start = [p.detach().clone() for p in rotations(model)]

    def error():
        return max((p @ p.T - torch.eye(4)).abs().max().item() for p in rotations(model))

    assert error() < 1e-5
    for _ in range(100):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(torch.isfinite(p).all() for p in learnt)
    model(input_ids=ids)
    assert error() < 1e-5
    assert all((a - b).abs().max() > 0.01 for a, b in zip(start, rotations(model), strict=True))


def test_identity_start_is_exactly_the_base(tiny_model):
    ids = tokens()
    base = load(tiny_model).eval()(input_ids=ids).logits
    assert not torch.allclose(reft(tiny_model)(input_ids=ids).logits, base, atol=1e-2)
    for variant, orthogonal in (("loreft", None), ("direft", True), ("nodireft", None)):
        config = ReftConfig(variant=variant, orthogonal=orthogonal, start="identity", rank=4)
        model = get_peft_model(load(tiny_model), config).eval()
        assert torch.equal(model(input_ids=ids).logits, base), variant
        model(input_ids=ids, labels=ids).loss.backward()
        moved = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
        assert moved, "an identity start must be able to leave"


@pytest.mark.parametrize(
    ("rank", "width", "layers", "tied", "expected"),
    [
        (4, 4096, 1, True, 32_772),
        (8, 4096, 1, True, 65_544),
        (8, 4096, 32, True, 2_097_408),
        (8, 4096, 32, False, 2 * 2_097_408),
    ],
)
def test_an_edit_has_as_many_weights_as_the_paper_says(rank, width, layers, tied, expected):
    shape = {
        "hidden_size": width,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "vocab_size": 16,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
        model = get_peft_model(model, ReftConfig(rank=rank, tied=tied))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_what_is_orthonormal_keeps_every_bit_and_the_rest_becomes_the_nearest():
    torch.manual_seed(0)
    good = random_rows(4, 32)
    restore_orthonormal([good])
    kept, bad = good.clone(), good + 0.1 * torch.randn(4, 32)
    nearest = polar(bad.double()).float()
    broken = torch.full((4, 32), float("nan"))
    restore_orthonormal([good, bad, broken])
    assert torch.equal(good, kept)
    assert torch.allclose(bad, nearest, atol=1e-6)
    assert broken.isnan().all()
    u, _, v = torch.linalg.svd(bad.double(), full_matrices=False)
    assert torch.allclose((u @ v).float(), bad, atol=1e-6)


def test_the_gradient_is_that_of_the_polar_factor():
    torch.manual_seed(0)
    rows = polar(torch.randn(3, 7).double())
    target, direction = torch.randn(3, 7).double(), torch.randn(3, 7).double()
    ours = rows.clone().requires_grad_()
    ((tangent(ours) - target) ** 3).sum().backward()
    step = 1e-6
    ahead, behind = (((polar(rows + s * direction) - target) ** 3).sum() for s in (step, -step))
    slope = float(ahead - behind) / (2 * step)
    assert float((ours.grad * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_dropout_touches_the_edit_and_not_the_residual(tiny_model):
    model = reft(tiny_model, dropout=0.999, layers=[0])
    ids = tokens()
    edited, _ = outputs_of_blocks(model, input_ids=ids)
    with model.disable_adapter():
        plain, _ = outputs_of_blocks(model, input_ids=ids)
    torch.manual_seed(0)
    model.train()
    dropped, _ = outputs_of_blocks(model, input_ids=ids)
    assert not torch.allclose(edited[0], plain[0], atol=1e-2)
    same = (dropped[0] == plain[0]).float().mean()
    assert same > 0.98


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank = 0"),
        ({"rank": 49}, "rank = 49 is above the model's width 48"),
        ({"layers": [3]}, "there is no layer 3; the model has 0 to 2"),
        ({"layers": []}, "layers is empty"),
        ({"variant": "reft"}, "variant 'reft'"),
        ({"first_positions": 0, "last_positions": 0}, "one must be above 0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"variant": "nodireft", "orthogonal": True}, "use variant direft"),
        ({"orthogonal": False}, "orthonormal rows always"),
        ({"start": "zero"}, "start 'zero'"),
    ],
)
def test_settings_that_make_no_sense(tiny_model, settings, message):
    with pytest.raises(SettingError) as raised:
        reft(tiny_model, **settings)
    assert message in str(raised.value)


def rotations(model):
    return [p for n, p in model.named_parameters() if "rotate" in n]
