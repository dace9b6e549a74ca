"""What rounds add to a base in bfloat16 is not rounded away, and is what is exported."""

import pytest
import torch
from federated_runs import LOW_RANK, federate, write_kinds
from peft import LoraConfig, PeftModel, get_peft_model

from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.federated.additions import Additions
from gossamer.federated.aggregation.tensors import FactorPair
from gossamer.training.data import DataSettings, load_data
from gossamer.training.evaluation.predict import log_probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_small_additions_do_not_vanish(dtype, tiny_model):
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"])
    model = get_peft_model(load_model(tiny_model, dtype=dtype), config)
    path = "model.layers.0.self_attn.q_proj"
    layer = model.get_submodule(f"base_model.model.{path}")
    weight = layer.get_base_layer().weight
    before = weight.detach().clone()
    torch.manual_seed(0)
    a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    x = torch.randn(5, weight.shape[1]).to(dtype)
    with torch.no_grad():
        plain = layer(x)
    # Each is far below the last digit of a weight in bfloat16.
    small = FactorPair(a, b * 1e-6)
    merged, additions = [], Additions()
    for _ in range(200):
        merged.append({path: small})
        additions.take(model, merged)
    # What it has already is not added twice.
    additions.take(model, merged)
    if dtype == torch.bfloat16:
        assert torch.equal(weight, before)
    with torch.no_grad():
        change = (layer(x) - plain).double()
    wanted = x.double() @ (200 * 2 * (small.b.double() @ a.double())).t()
    # The result, not the sum, has the digits of its type.
    bound = 2 * torch.finfo(dtype).eps * plain.abs().max() + 1e-2 * wanted.abs().max()
    assert float((change - wanted).abs().max()) < float(bound)
    assert float(change.norm()) > 0.9 * float(wanted.norm())


@pytest.mark.parametrize("aggregation", ["flora", "fedex"])
def test_in_bfloat16_the_loss_that_is_told_is_that_of_the_export(
    aggregation, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("gossamer.federated.coordinator.draw_rounds", lambda *args: None)
    rows = write_kinds(tmp_path / "rows.jsonl")
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=2, rounds=4, dtype="bfloat16",
        aggregation=aggregation, method_settings=LOW_RANK, max_steps=1, learning_rate=1e-3,
    )  # fmt: skip
    model = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.bfloat16), run.output)
    data = load_data(DataSettings(data=str(rows)), load_tokenizer(tiny_model), seed=0).train
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [value for batch in log_probabilities(model.eval(), data) for value in batch]
    again = -sum(found) / sum(row.trained_tokens for row in data)
    gained = run.eval_loss_before - run.eval_loss
    assert gained > 0.1
    # What rounding of results in bfloat16 makes; two ways to sum differ by 0.001 here.
    assert again == pytest.approx(run.eval_loss, abs=3e-3)
