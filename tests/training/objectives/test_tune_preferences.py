"""Runs that learn from pairs: what the first loss is, that it falls, what is left and resumed."""

import json
import math
from importlib.metadata import version

import pytest
import torch
from cases import CASES
from method_helpers import base_folder
from peft import PeftModel
from runs import quiet_tune, step_losses
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gossamer import methods
from gossamer.adapters.load import load_adapter
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.errors import DataError, SettingError
from gossamer.training.data import DataSettings, load_data
from gossamer.training.evaluation.predict import log_probabilities
from gossamer.training.objectives import check
from gossamer.training.objectives.check import OLDEST_TRL
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records
from gossamer.training.outputs.model_card import result_rows

OLD = tuple(int(part) for part in version("trl").split(".")[:2]) < OLDEST_TRL
pytestmark = pytest.mark.skipif(OLD, reason="pairs need a newer TRL")
LOG_2 = math.log(2)
SERVED = ("low-rank", "gain", "sparse", "intervention", "prefix")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {"prompt": f"{i} + 1 =", "chosen": f" It is {i + 1}.", "rejected": " No."} for i in range(6)
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prefer(base, pairs, output, objective="dpo", **settings):
    defaults = {"max_steps": 4, "batch_size": 6, "warmup": 0, "preference_beta": 0.5}
    return quiet_tune(base, pairs, output, objective=objective, **{**defaults, **settings})


def some(names, always):
    """`names` as parameters; those not in `always` run with the slow tests."""
    return [pytest.param(n, marks=() if n in always else pytest.mark.slow) for n in names]


ALWAYS = ("lora", "pissa", "loreft", "prefix_tuning", "sparsegrad", "slora")


@pytest.mark.parametrize("name", some(methods.names(), ALWAYS))
def test_every_method_begins_with_log_2_and_learns(name, pairs, tmp_path):
    """The reference is the model at the start, whether that is the base or not."""
    case, method = CASES[name], methods.find(name)
    for module in method.extra_modules:
        pytest.importorskip(module)
    result = prefer(
        base_folder(case.model_type),
        pairs,
        tmp_path / "run",
        method=name,
        learning_rate=case.rate,
        **case.settings,
    )
    assert result.losses[0] == pytest.approx(LOG_2, abs=2e-5)
    assert result.losses[-1] < LOG_2 - 1e-3
    records = train_records(read_metrics(result.output))
    assert records[-1]["margin"] > 0.0 == pytest.approx(records[0]["margin"], abs=1e-4)
    if method.from_values(case.settings).kind in SERVED:
        load_adapter(result.output)


def answer_sums(model, folder, pairs):
    """[pairs, 2]: log-probabilities of the chosen and the rejected answers."""
    data = load_data(DataSettings(data=str(pairs)), load_tokenizer(folder), seed=0)
    sides = [side for pair in data.train for side in pair.sides]
    sums = [value for batch in log_probabilities(model.eval(), sides) for value in batch]
    lengths = [side.trained_tokens for side in sides]
    return torch.tensor(sums).view(-1, 2), torch.tensor(lengths).view(-1, 2)


def test_what_is_measured_is_what_the_adapter_does(tiny_model, pairs, tmp_path):
    result = prefer(
        tiny_model, pairs, tmp_path / "run", eval_data=str(pairs), rank=4, learning_rate=5e-3
    )
    base = load_model(tiny_model, dtype=torch.float32)
    before, _ = answer_sums(base, tiny_model, pairs)
    after, _ = answer_sums(PeftModel.from_pretrained(base, result.output), tiny_model, pairs)
    gains = 0.5 * (after - before)
    margins = gains[:, 0] - gains[:, 1]
    assert result.eval_loss_before == pytest.approx(LOG_2, abs=2e-5)
    expected = -torch.nn.functional.logsigmoid(margins).mean().item()
    assert result.eval_loss == pytest.approx(expected, abs=2e-4)
    assert result.eval_margin == pytest.approx(margins.mean().item(), abs=2e-4)
    assert result.eval_accuracy == (margins > 0).float().mean().item() == 1
    assert "chosen answer preferred, held-out pairs" in dict(result_rows(result))
    assert {"eval_accuracy", "eval_margin"} <= set(eval_records(read_metrics(result.output))[-1])


def test_orpo_begins_with_its_equation_and_learns(tiny_model, pairs, tmp_path):
    sums, lengths = answer_sums(load_model(tiny_model, dtype=torch.float32), tiny_model, pairs)
    p = (sums / lengths).exp()
    ratio = torch.logit(p[:, 0].double()) - torch.logit(p[:, 1].double())
    nll = -sums[:, 0].sum() / lengths[:, 0].sum()
    expected = nll - 0.5 * torch.nn.functional.logsigmoid(ratio).mean()
    for method in ("lora", "prompt_tuning"):
        case = CASES[method]
        result = prefer(
            tiny_model,
            pairs,
            tmp_path / method,
            objective="orpo",
            method=method,
            learning_rate=case.rate,
            **case.settings,
        )
        assert result.losses[-1] < result.losses[0] - 0.01
        if case.starts_as_base:
            assert result.losses[0] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_orpo_passes_over_pairs_that_are_too_long(method, tiny_model, pairs, tmp_path):
    """Read as they are needed they stay among the rows; the batch's loss is that of the others."""
    rows = pairs.read_text()
    long = {"prompt": "a" * 200, "chosen": " b", "rejected": " c"}
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(rows + json.dumps(long) + "\n")
    case = CASES[method]
    settings = {"objective": "orpo", "method": method, "learning_rate": case.rate, "max_steps": 1}
    settings |= {"max_length": 100, **case.settings}
    alone = prefer(tiny_model, pairs, tmp_path / "alone", **settings)
    beside = prefer(
        tiny_model, mixed, tmp_path / "mixed", lazy_data=True, **{**settings, "batch_size": 7}
    )
    one, other = (train_records(read_metrics(run.output))[0] for run in (alone, beside))
    for figure in ("loss", "grad_norm", "margin", "accuracy"):
        assert other[figure] == pytest.approx(one[figure], rel=1e-4, abs=1e-5)
    assert other["trained_tokens"] == one["trained_tokens"]
    # One pair a step: one of the seven steps has none.
    settings |= {"max_steps": 7, "batch_size": 1}
    steps = prefer(tiny_model, mixed, tmp_path / "steps", lazy_data=True, **settings)
    assert sorted(loss > 0 for loss in steps.losses) == [False] + [True] * 6


def test_accumulation_changes_neither_loss_nor_gradient(tiny_model, pairs, tmp_path):
    settings = {"max_steps": 1, "rank": 4, "density_loss": 0.5, "density_epsilon": 1e-2}
    whole = prefer(tiny_model, pairs, tmp_path / "whole", **settings)
    parts = prefer(
        tiny_model, pairs, tmp_path / "parts", batch_size=2, gradient_accumulation=3, **settings
    )
    one, other = (train_records(read_metrics(run.output))[0] for run in (whole, parts))
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=0.02)
    assert (one["tokens"], one["trained_tokens"]) == (other["tokens"], other["trained_tokens"])


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 3:
            raise RuntimeError("stopped here")


@pytest.mark.parametrize("method", some(["pissa", "slora", "full"], ["pissa"]))
def test_it_resumes_exactly(method, pairs, tmp_path):
    case = CASES[method]
    base = base_folder(case.model_type)
    settings = {"method": method, "save_every": 2, "learning_rate": case.rate, "batch_size": 2}
    settings |= {"max_steps": 5, "eval_split": 1, **case.settings}
    whole = prefer(base, pairs, tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="stopped here"):
        prefer(base, pairs, tmp_path / "parts", listener=Interrupt(), **settings)
    quiet_tune(output=tmp_path / "parts", resume=True)
    assert step_losses(tmp_path / "parts") == step_losses(tmp_path / "whole")
    assert eval_records(read_metrics(tmp_path / "parts"))[-1]["eval_loss"] == whole.eval_loss


@pytest.mark.parametrize("method", some(["lora", "pissa", "loreft", "smt"], ["pissa"]))
def test_a_run_goes_on_from_a_tuned_adapter(method, pairs, tmp_path):
    """Its reference is the tuned model, so the first loss is log 2; its start is that adapter."""
    case = CASES[method]
    base = base_folder(case.model_type)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1 + 1 =", "completion": " It is 2."}) + "\n")
    tuned = quiet_tune(base, rows, tmp_path / "tuned", method=method, max_steps=3, **case.settings)
    assert tuned.losses[-1] < tuned.losses[0]
    settings = {"method": method, "start_from": str(tuned.output), **case.settings}
    result = prefer(base, pairs, tmp_path / "on", learning_rate=case.rate, **settings)
    assert result.losses[0] == pytest.approx(LOG_2, abs=2e-5)
    assert result.losses[-1] < LOG_2 - 1e-3
    still = prefer(base, pairs, tmp_path / "still", max_steps=1, learning_rate=1e-12, **settings)
    before, after = (load_file(r.output / "adapter_model.safetensors") for r in (tuned, still))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5)


def test_starts_that_do_not_fit_are_refused(tiny_model, pairs, tmp_path):
    tuned = prefer(tiny_model, pairs, tmp_path / "tuned", max_steps=1, rank=4)
    for settings, reason in (
        ({"start_from": str(tmp_path)}, "holds no run"),
        ({"start_from": str(tuned.output), "method": "ia3"}, "was learnt with method 'lora'"),
        ({"start_from": str(tuned.output), "rank": 2}, r"rank 4 \(here 2\)"),
    ):
        with pytest.raises(Exception, match=reason):
            prefer(tiny_model, pairs, tmp_path / "on", **settings)
        assert not (tmp_path / "on").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"packing": True}, "pairs are not packed"),
        ({"neftune_noise_alpha": 5}, "noise would be measured"),
        ({"sparse_compute": "llama2-7b-csr"}, "by different channels"),
        ({"train_on": "all"}, "only answers are compared"),
    ],
)
def test_what_pairs_cannot_go_with_is_refused(settings, reason, tiny_model, pairs, tmp_path):
    with pytest.raises(SettingError, match=reason):
        prefer(tiny_model, pairs, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_an_older_trl_is_refused(tiny_model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "version", lambda name: "1.10.0")
    with pytest.raises(SettingError, match=r"needs TRL 1\.16 or newer, and 1\.10\.0 is installed"):
        prefer(tiny_model, pairs, tmp_path / "run")


def test_data_and_objective_must_fit(tiny_model, pairs, tmp_path):
    with pytest.raises(DataError, match="pairs are learnt from with --objective dpo"):
        prefer(tiny_model, pairs, tmp_path / "run", objective="sft")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    with pytest.raises(DataError, match=r"needed: chosen \+ rejected \(preference\)"):
        prefer(tiny_model, rows, tmp_path / "run")


def test_the_whole_model_can_prefer(tiny_model, pairs, tmp_path):
    result = prefer(tiny_model, pairs, tmp_path / "run", method="full", learning_rate=1e-3)
    before, _ = answer_sums(load_model(tiny_model, dtype=torch.float32), tiny_model, pairs)
    model = AutoModelForCausalLM.from_pretrained(result.output)
    after, _ = answer_sums(model, tiny_model, pairs)
    gains = after - before
    assert (gains[:, 0] > gains[:, 1]).all()
