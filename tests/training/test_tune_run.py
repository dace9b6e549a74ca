"""A whole run from Python: what it leaves behind, and that it can be trusted."""

import json
import math

import pytest
import torch
import yaml
from peft import PeftModel
from runs import TINY, quiet_tune, step_losses, write_rows
from transformers import AutoModelForCausalLM

from gossamer import methods
from gossamer.basemodel.files import fingerprint
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.errors import (
    CheckpointError,
    DataError,
    GossamerError,
    SettingError,
    StorageError,
    TrainingError,
)
from gossamer.training.data import DataSettings, load_data
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records
from gossamer.training.run import tune


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def finished(tiny_model, rows, tmp_path_factory):
    """(run folder, result) of a run of 40 steps with six rows held out, and its picture."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    settings = {"save_every": 15, "eval_every": 20, "eval_split": 6, "dtype": "float32"}
    result = tune(tiny_model, rows, output, max_steps=40, listener=Listener(), **settings, **TINY)
    return output, result


def data_loss(model, folder, rows, **settings):
    """Mean loss per trained token over all rows, one row at a time."""
    data = load_data(DataSettings(data=str(rows), **settings), load_tokenizer(folder), seed=0)
    total = count = 0
    for row in data.train:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        with torch.no_grad():
            loss = model.eval()(input_ids=ids, labels=labels).loss
        total += loss.item() * row.trained_tokens
        count += row.trained_tokens
    return total / count


def test_a_run_learns(finished, tiny_model, rows):
    output, result = finished
    assert result.steps == 40
    assert result.eval_loss < result.eval_loss_before - 1
    base = load_model(tiny_model, dtype=torch.float32)
    before = data_loss(base, tiny_model, rows)
    after = data_loss(PeftModel.from_pretrained(base, output), tiny_model, rows)
    assert after < before - 1


def test_the_first_loss_is_that_of_the_base_on_the_rows_of_the_step(tiny_model, rows, tmp_path):
    """The loss counts the completion's tokens only, each once, whatever the accumulation."""
    base = load_model(tiny_model, dtype=torch.float32)
    expected = data_loss(base, tiny_model, rows)
    result = quiet_tune(
        tiny_model,
        rows,
        tmp_path / "run",
        epochs=1,
        batch_size=5,
        gradient_accumulation=5,
        rank=2,
    )
    assert result.steps == 1
    assert result.losses[0] == pytest.approx(expected, rel=1e-5)


def test_the_evaluation_loss_is_the_mean_per_token(finished, tiny_model, rows, tmp_path):
    result = quiet_tune(
        tiny_model, rows, tmp_path / "run", max_steps=1, eval_data=str(rows), batch_size=5, rank=2
    )
    base = load_model(tiny_model, dtype=torch.float32)
    assert result.eval_loss_before == pytest.approx(data_loss(base, tiny_model, rows), rel=1e-5)


def test_what_is_in_the_folder(finished, tiny_model):
    output, _ = finished
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoints",
        "curve.png",
        "metrics.jsonl",
        "run.yaml",
    ]
    checkpoints = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert checkpoints == ["step-30", "step-40"]
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "adapter_model.safetensors").stat().st_mode & 0o044
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)


def test_the_metrics_have_every_step(finished):
    output, result = finished
    records = read_metrics(output)
    steps = train_records(records)
    assert [record["step"] for record in steps] == list(range(1, 41))
    assert [record["step"] for record in eval_records(records)] == [0, 20, 40]
    for record in steps:
        assert record["tokens"] > record["trained_tokens"] > 0
        assert record["seconds"] > 0
        assert record["grad_norm"] > 0
    assert result.tokens == sum(record["tokens"] for record in steps)


def test_the_record_says_all_that_is_needed(finished, tiny_model, rows):
    output, result = finished
    record = yaml.safe_load((output / "run.yaml").read_text())
    assert record["model"] == str(tiny_model)
    assert record["method_settings"]["rank"] == 4
    assert record["learning_rate"] == TINY["learning_rate"]
    assert record["dtype"] in ("float32", "bfloat16")
    assert record["recorded"]["base_fingerprint"] == fingerprint(tiny_model)
    assert len(record["recorded"]["data_sha256"][str(rows)]) == 64
    assert record["recorded"]["versions"]["peft"]
    assert record["result"]["eval_loss"] == result.eval_loss


def test_the_card_says_how_to_use_it(finished, tiny_model):
    output, result = finished
    card = (output / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == str(tiny_model)
    assert f"gossamer serve --model {tiny_model} --adapters {output.parent}" in body
    assert f"{result.eval_loss:.4f}" in body


def test_the_record_repeats_the_run(finished, tmp_path):
    output, result = finished
    again = quiet_tune(config=output / "run.yaml", output=tmp_path / "again")
    assert again.losses == result.losses
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()


def test_another_seed_is_another_run(finished, tmp_path):
    output, result = finished
    other = quiet_tune(config=output / "run.yaml", output=tmp_path / "other", seed=1, max_steps=3)
    assert other.losses != result.losses[:3]


def test_repeating_with_changed_data_is_told(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    quiet_tune(tiny_model, rows, tmp_path / "one", max_steps=1, **TINY)
    write_rows(rows, count=30)
    notes = []

    class Notes(Listener):
        def note(self, text):
            notes.append(text)

    config = tmp_path / "one" / "run.yaml"
    quiet_tune(config=config, output=tmp_path / "two", listener=Notes())
    assert len(notes) == 1
    assert f"data file '{rows}' is not the one" in notes[0]


@pytest.mark.parametrize("name", ["lora", "dora", "qlora", "full"])
def test_methods_run_and_learn(name, tiny_model, rows, tmp_path):
    for module in methods.find(name).extra_modules:
        pytest.importorskip(module)
    output = tmp_path / "run"
    result = quiet_tune(
        tiny_model, rows, output, method=name, max_steps=12, learning_rate=3e-3, batch_size=4
    )
    assert result.losses[-1] < result.losses[0] - 0.5
    if methods.find(name).kind == "model":
        model = AutoModelForCausalLM.from_pretrained(output)
        assert load_tokenizer(output)("hello").input_ids
        assert not (output / "adapter_config.json").exists()
    else:
        base = load_model(tiny_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, output)
    assert data_loss(model, tiny_model, rows) < result.losses[0] - 0.5


def test_only_trained_tokens_go_through_the_output_head(tiny_model, rows, tmp_path, monkeypatch):
    from trl.trainer import utils

    if not hasattr(utils, "_use_triton"):
        pytest.skip("TRL below 1.16 leaves the other tokens out by a function of its own")
    scored = []
    head = utils._ChunkedLogProbFunction

    class Counting:
        @staticmethod
        def apply(hidden, *rest):
            scored.append(len(hidden))
            return head.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    quiet_tune(tiny_model, rows, tmp_path / "run", max_steps=3, **TINY)
    steps = train_records(read_metrics(tmp_path / "run"))
    assert scored == [record["trained_tokens"] for record in steps]


def test_gradient_checkpointing_changes_no_loss(tiny_model, rows, tmp_path):
    plain = quiet_tune(tiny_model, rows, tmp_path / "plain", max_steps=3, dropout=0.2, **TINY)
    sparing = quiet_tune(
        tiny_model,
        rows,
        tmp_path / "sparing",
        max_steps=3,
        dropout=0.2,
        gradient_checkpointing=True,
        **TINY,
    )
    assert sparing.losses == pytest.approx(plain.losses, rel=1e-5)


def test_bfloat16_can_be_asked_for(tiny_model, rows, tmp_path):
    result = quiet_tune(tiny_model, rows, tmp_path / "run", max_steps=2, dtype="bf16", **TINY)
    assert all(math.isfinite(loss) for loss in result.losses)
    weights = PeftModel.from_pretrained(
        load_model(tiny_model, dtype=torch.float32), tmp_path / "run"
    )
    assert {p.dtype for n, p in weights.named_parameters() if "lora_" in n} == {torch.float32}


@pytest.mark.parametrize("damage", ["weights", "labels"])
def test_a_loss_that_is_no_number_stops_the_run(tiny_model, rows, tmp_path, damage):
    options = {"max_grad_norm": 0} if damage == "labels" else {}
    with pytest.raises(TrainingError) as raised:
        quiet_tune(
            tiny_model,
            rows,
            tmp_path / "run",
            max_steps=30,
            save_every=1,
            rank=4,
            learning_rate=1e30,
            warmup=3,
            batch_size=4,
            **options,
        )
    message = str(raised.value)
    assert "at step" in message
    assert "lower learning_rate (now 1e+30)" in message
    assert not (tmp_path / "run" / "adapter_config.json").exists()
    kept = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept
    for folder in kept:
        from safetensors.torch import load_file

        for tensor in load_file(folder / "adapter_model.safetensors").values():
            assert tensor.isfinite().all()


class TestFolders:
    """Who may write where."""

    def test_a_run_is_never_overwritten_by_accident(self, finished, tiny_model, rows):
        output, _ = finished
        with pytest.raises(SettingError, match="already holds a run; add --resume"):
            quiet_tune(tiny_model, rows, output, max_steps=1)

    def test_a_folder_with_other_files_is_refused_even_to_overwrite(
        self, tiny_model, rows, tmp_path
    ):
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(SettingError, match="not empty and holds no run"):
            quiet_tune(tiny_model, rows, tmp_path, max_steps=1, overwrite=True)
        assert (tmp_path / "thesis.txt").read_text() == "precious"

    def test_overwriting_replaces_the_run_and_nothing_else(self, tiny_model, rows, tmp_path):
        output = tmp_path / "run"
        quiet_tune(tiny_model, rows, output, method="full", max_steps=1)
        (output / "notes.txt").write_text("mine")
        quiet_tune(tiny_model, rows, output, method="lora", max_steps=2, overwrite=True, **TINY)
        assert step_losses(output)[-1][0] == 2
        names = {path.name for path in output.iterdir()}
        assert {"notes.txt", "adapter_config.json"} <= names
        assert not {"config.json", "model.safetensors", "tokenizer.json"} & names

    def test_bad_input_leaves_the_former_run_alone(self, tiny_model, rows, tmp_path):
        output = tmp_path / "run"
        quiet_tune(tiny_model, rows, output, max_steps=1, **TINY)
        before = (output / "adapter_model.safetensors").read_bytes()
        with pytest.raises(DataError):
            quiet_tune(tiny_model, tmp_path / "none.jsonl", output, overwrite=True)
        assert (output / "adapter_model.safetensors").read_bytes() == before


class TestResume:
    """Going on with a run."""

    def test_nothing_to_resume(self, tiny_model, rows, tmp_path):
        with pytest.raises(CheckpointError, match="nothing to resume"):
            quiet_tune(output=tmp_path / "none", resume=True)
        with pytest.raises(SettingError, match="--resume needs --output"):
            quiet_tune(resume=True)

    def test_a_finished_run_is_not_resumed(self, finished):
        with pytest.raises(CheckpointError, match="is finished"):
            quiet_tune(output=finished[0], resume=True)

    def test_changed_settings_are_refused_by_name(self, finished):
        with pytest.raises(CheckpointError, match=r"cannot resume with batch_size=2: .* has 4"):
            quiet_tune(output=finished[0], resume=True, batch_size=2)

    def test_more_steps_at_a_constant_rate_equal_one_long_run(self, tiny_model, rows, tmp_path):
        settings = {**TINY, "scheduler": "constant", "warmup": 2, "dropout": 0.1}
        long = quiet_tune(tiny_model, rows, tmp_path / "long", max_steps=9, **settings)
        quiet_tune(tiny_model, rows, tmp_path / "short", max_steps=5, **settings)
        grown = quiet_tune(output=tmp_path / "short", resume=True, max_steps=9)
        assert grown.losses == long.losses

    @pytest.mark.parametrize("name", ["full", "dora"])
    def test_other_methods_go_on_exactly_too(self, name, tiny_model, rows, tmp_path):
        settings = {"method": name, "scheduler": "constant", "warmup": 0, "learning_rate": 1e-3}
        long = quiet_tune(tiny_model, rows, tmp_path / "long", max_steps=6, **settings)
        quiet_tune(tiny_model, rows, tmp_path / "short", max_steps=3, **settings)
        grown = quiet_tune(output=tmp_path / "short", resume=True, max_steps=6)
        assert grown.losses == long.losses

    def test_a_damaged_checkpoint_is_refused(self, tiny_model, rows, tmp_path):
        output = tmp_path / "run"

        class Stop(Listener):
            def step(self, record):
                if record["step"] == 3:
                    raise RuntimeError("stop here")

        with pytest.raises(RuntimeError, match="stop here"):
            quiet_tune(tiny_model, rows, output, max_steps=9, save_every=2, listener=Stop(), **TINY)
        optimizer = output / "checkpoints" / "step-2" / "optimizer.pt"
        optimizer.write_bytes(optimizer.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"step-2 is damaged: optimizer.pt has"):
            quiet_tune(output=output, resume=True)


def test_an_unwritable_place_is_refused(tiny_model, rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GossamerError, match="is a file; give a folder"):
        quiet_tune(tiny_model, rows, tmp_path / "file", max_steps=1)
    with pytest.raises(StorageError, match=r"cannot write to .*a part of that path is a file"):
        quiet_tune(tiny_model, rows, tmp_path / "file" / "run", max_steps=1)
