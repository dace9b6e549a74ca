"""AdaLoRA: ranks fall to what was asked; the regulariser reaches the gradient once a step."""

import json

import pytest
import torch
from method_helpers import base_folder, base_model, build, gradients, logits
from peft import PeftModel
from runs import quiet_tune

from gossamer.adapters.load import load_adapter
from gossamer.methods.adalora import orthogonality
from gossamer.training.outputs.listener import Listener


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(8)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def run(rows, output, **options):
    settings = {"learning_rate": 1e-2, "warmup": 0, "batch_size": 4, **options}
    return quiet_tune(base_folder("llama"), rows, output, method="adalora", **settings)


@pytest.mark.parametrize("last_share", [0.0, 0.3])
def test_the_result_has_the_mean_rank_that_was_asked_for(rows, tmp_path, last_share):
    run(rows, tmp_path / "run", max_steps=10, rank=2, initial_rank=4, last_share=last_share)
    factors = load_adapter(tmp_path / "run").factors
    ranks = [pair.rank for pair in factors.values()]
    # A layer that lost all keeps one, of zeros.
    left = sum(pair.rank for pair in factors.values() if pair.b.any() and pair.a.any())
    assert left == 2 * len(ranks)
    assert len(set(ranks)) > 1
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["rank_pattern"]


def test_the_regulariser_is_the_papers():
    _, model, _ = build("adalora")
    terms = []
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            p = parameter if "lora_A" in name else parameter.T
            terms.append((p @ p.T - torch.eye(4)).square().sum().sqrt())
    assert len(terms) == 42
    assert torch.isclose(orthogonality(model), torch.stack(terms).mean())


def test_without_a_loss_the_factors_become_orthogonal():
    method, model, _ = build("adalora", orthogonality=1.0)
    learning = [p for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]
    optimizer = torch.optim.Adam(learning, lr=0.02)
    start = method.regularizer(model).item()
    for _ in range(60):
        optimizer.zero_grad()
        method.regularizer(model).backward()
        optimizer.step()
    assert method.regularizer(model).item() < 0.1 * start


@pytest.mark.parametrize("accumulation", [1, 2])
def test_its_gradient_comes_once_a_step_and_is_not_in_the_loss(rows, tmp_path, accumulation):
    """Compared with no regulariser: the same loss, and a step that differs as its gradient does."""
    found = {}
    for weight in (0.0, 0.5):
        norms = []

        class Note(Listener):
            def step(self, record, norms=norms):
                norms.append((record["loss"], record["grad_norm"]))

        quiet_tune(
            base_folder("llama"),
            rows,
            tmp_path / f"{weight}",
            method="adalora",
            listener=Note(),
            max_steps=1,
            first_share=0.0,
            last_share=0.0,
            batch_size=8 // accumulation,
            gradient_accumulation=accumulation,
            max_grad_norm=0,
            orthogonality=weight,
            learning_rate=1e-3,
            dtype="float32",
        )
        found[weight] = norms[0]
    assert found[0.5][0] == pytest.approx(found[0.0][0], rel=1e-6)
    _, model, _ = build("adalora", rank=8, initial_rank=12)
    term = 0.5 * orthogonality(model)
    term.backward()
    own = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
    # A and B have no gradient of the loss at the start, where E is zero: the squares add up.
    expected = (found[0.0][1] ** 2 + own.item()) ** 0.5
    assert found[0.5][1] == pytest.approx(expected, rel=1e-3)


def test_what_is_taken_away_does_not_act_any_more(tmp_path):
    method, model, where = build("adalora", first_share=0.0, last_share=0.0)
    callback = method.callbacks(where)[0]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)

    class State:
        global_step = 0

    for step in range(10):
        gradients(model)
        optimizer.step()
        State.global_step = step
        callback.on_optimizer_step(None, State, None)
    left = sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)
    assert left == 2 * 21
    expected = logits(model)
    method.export(model, tmp_path, where)
    again = PeftModel.from_pretrained(base_model(where.base_folder), tmp_path)
    assert torch.allclose(logits(again), expected, atol=1e-5)
