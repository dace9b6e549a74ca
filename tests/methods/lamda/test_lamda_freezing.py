"""Columns of B freeze for good: schedule, bits, optimizer state, resuming; ranks of LaMDA++."""

import json

import pytest
import torch
from lamda_case import disturb, lamda, layer, tokens
from peft import PeftModel, get_peft_model
from runs import quiet_tune
from safetensors.torch import load_file

from gossamer.errors import SettingError, TrainingError
from gossamer.methods.lamda.freezing import (
    FreezeColumns,
    freeze_columns,
    frozen_columns,
    lamda_layers,
)
from gossamer.methods.lamda.model import LamdaConfig
from gossamer.methods.lamda.spectrum import allocate_ranks
from gossamer.training.outputs.listener import Listener


def test_the_schedule_of_freezing():
    at = [frozen_columns(64, step, 1000, 0.3) for step in (0, 150, 299, 300, 301, 1000)]
    assert at == [0, 32, 63, 64, 64, 64]
    assert [frozen_columns(8, step, 10, 0.3) for step in range(5)] == [0, 2, 5, 8, 8]
    assert frozen_columns(8, 10, 10, None) == 0


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=False),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_columns_stay_bit_identical(kind):
    made = layer(dtype=torch.float32)
    optimizer = OPTIMIZERS[kind]([p for p in made.parameters() if p.requires_grad])
    inputs, target = torch.randn(9, 14), torch.randn(9, 20)

    def step():
        loss = (made(inputs) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    for _ in range(3):
        loss = step()
    whole = made.lamda_B["default"].detach().clone()
    for count in (2, 4, 6):
        before = torch.cat((made.lamda_frozen["default"], made.lamda_B["default"].detach()), 1)
        freeze_columns(made, "default", count, optimizer)
        now = torch.cat((made.lamda_frozen["default"], made.lamda_B["default"].detach()), 1)
        assert torch.equal(now, before), "freezing itself moves nothing"
        free = made.lamda_B["default"].detach().clone()
        for _ in range(5):
            loss = step()
        assert torch.equal(made.lamda_frozen["default"][:, :2], whole[:, :2])
        assert torch.equal(made.lamda_frozen["default"], before[:, :count])
        if count < 6:
            assert not torch.equal(made.lamda_B["default"], free), "the others go on"
        kept = sum(
            value.numel()
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.dim()
        )
        moments = 1 if kind == "momentum" else 2
        assert kept == moments * (6**2 + 20 * (6 - count)), "states of frozen columns are dropped"
    assert loss.isfinite()


def test_the_moments_of_what_still_learns_are_kept():
    made = layer(dtype=torch.float32)
    optimizer = OPTIMIZERS["adamw"]([p for p in made.parameters() if p.requires_grad])
    made(torch.randn(4, 14)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = optimizer.state[made.lamda_B["default"]]["exp_avg"].clone()
    freeze_columns(made, "default", 2, optimizer)
    after = optimizer.state[made.lamda_B["default"]]
    assert torch.equal(after["exp_avg"], before[:, 2:])
    assert after["step"] == 1


def test_an_optimizer_whose_state_has_other_shapes_is_refused():
    made = layer(dtype=torch.float32)
    optimizer = torch.optim.Adafactor([p for p in made.parameters() if p.requires_grad])
    made(torch.randn(4, 14)).square().mean().backward()
    optimizer.step()
    with pytest.raises(TrainingError, match="use AdamW or SGD"):
        freeze_columns(made, "default", 2, optimizer)
    assert made.lamda_frozen["default"].shape[1] == 0


def test_several_processes_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    callback = FreezeColumns()
    with pytest.raises(SettingError, match="several processes"):
        callback.on_train_begin(None, None, None, model=lamda(tiny_model))
    callback.on_train_begin(None, None, None, model=lamda(tiny_model, freeze_share=None))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return path


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resuming_while_and_after_columns_freeze(stop, tiny_model, rows, tmp_path):
    def run(folder, listener):
        return quiet_tune(
            tiny_model,
            rows,
            tmp_path / folder,
            method="lamda",
            rank=6,
            freeze_share=0.5,
            max_steps=6,
            batch_size=4,
            learning_rate=5e-3,
            weight_decay=0.1,
            save_every=1,
            save_total_limit=9,
            listener=listener,
        )

    class Interrupt(Listener):
        def step(self, record):
            if record["step"] == stop + 1:
                raise RuntimeError("stopped here")

    whole = run("whole", Listener())
    with pytest.raises(RuntimeError, match="stopped here"):
        run("parts", Interrupt())
    parts = quiet_tune(output=tmp_path / "parts", resume=True)
    assert parts.losses == whole.losses
    assert whole.losses[-1] < whole.losses[0]
    last = tmp_path / "whole" / "checkpoints"
    kept = {
        step: load_file(last / f"step-{step}" / "adapter_model.safetensors") for step in (1, 3, 6)
    }
    key = "base_model.model.model.layers.0.self_attn.q_proj.lamda_frozen"
    assert [kept[step][key].shape[1] for step in (1, 3, 6)] == [2, 6, 6]
    assert torch.equal(kept[6][key], kept[3][key])
    assert torch.equal(kept[3][key][:, :2], kept[1][key])


def test_ranks_follow_the_spectra_under_one_budget():
    shares = {"steep": 0.9, "flat": 0.3, "middle": 0.6, "other": 0.6}
    ranks = allocate_ranks(shares, dict.fromkeys(shares, 100), 8)
    assert sum(ranks.values()) == 8 * 4
    assert ranks["flat"] > ranks["middle"] > ranks["steep"] >= 4
    assert abs(ranks["middle"] - ranks["other"]) <= 1, "equal but for what does not divide"
    assert ranks["flat"] <= 16
    limited = allocate_ranks(shares, {**dict.fromkeys(shares, 100), "flat": 9}, 8)
    assert limited["flat"] == 9
    assert sum(limited.values()) == 8 * 4
    assert set(allocate_ranks(dict.fromkeys("abc", 0.5), dict.fromkeys("abc", 9), 5).values()) == {
        5
    }
    with pytest.raises(ValueError, match="rank 8 is above"):
        allocate_ranks(shares, dict.fromkeys(shares, 7), 8)


def test_lamda_pp_gives_flat_weights_more_rank(tiny_model, tmp_path):
    base = lamda(tiny_model).unload()
    with torch.no_grad():
        q, k = base.model.layers[0].self_attn.q_proj, base.model.layers[0].self_attn.k_proj
        q.weight.copy_(torch.nn.init.orthogonal_(torch.empty_like(q.weight)))
        k.weight.copy_(torch.outer(torch.randn(32), torch.randn(48)) + 1e-3 * torch.randn(32, 48))
    model = get_peft_model(base, LamdaConfig(rank=6, allocation="spectrum"))
    ranks = model.peft_config["default"].rank_pattern
    assert len(ranks) == 21
    assert sum(ranks.values()) == 6 * 21
    assert ranks["model.layers.0.self_attn.q_proj"] == max(ranks.values())
    assert ranks["model.layers.0.self_attn.k_proj"] == min(ranks.values()) == 3
    for module, name in lamda_layers(model):
        assert module.lamda_S[name].shape[0] in range(3, 13)
    disturb(model)
    ids = tokens()
    expected = model(input_ids=ids).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = model.unload()
    assert torch.equal(PeftModel.from_pretrained(again, tmp_path)(input_ids=ids).logits, expected)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["rank_pattern"] == ranks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank = 0"),
        ({"alpha": 0}, "alpha = 0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"allocation": "x"}, "allocation 'x'"),
        ({"svd": "x"}, "svd 'x'"),
        ({"freeze_share": 0.0}, r"freeze_share = 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(SettingError, match=message):
        LamdaConfig(**settings)
