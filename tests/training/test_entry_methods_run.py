"""Runs of the methods that change single entries: exact resume, accumulation, plain TRL."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from runs import quiet_tune, write_rows
from trl import SFTConfig, SFTTrainer

from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.methods.slora.config import SloraConfig
from gossamer.methods.slora.model import SloraModel
from gossamer.methods.sparse_lora.config import SparseLoraConfig
from gossamer.methods.sparse_lora.model import SparseLoraModel
from gossamer.training.dry_run import dry_run
from gossamer.training.events import Listener
from gossamer.training.metrics import read_metrics, stage_records
from gossamer.training.quiet import quiet_libraries
from gossamer.training.settings import assemble

from tiny import module_shapes

SETTINGS = {
    "learning_rate": 3e-3,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "max_steps": 6,
    "save_every": 2,
    "rank": 4,
    "density": 0.1,
}
CASES = [
    {"method": "slora", "sparse_share": 0.5, "dropout": 0.2},
    {"method": "slora", "sparse_share": 0.5, "dropout": 0.2, "keep_residual": True},
    {"method": "sparse_lora"},
]


class Crash(Listener):
    def __init__(self, step):
        self._step = step

    def step(self, record):
        if record["step"] == self._step:
            raise RuntimeError("crash")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.mark.parametrize("case", CASES)
def test_a_crash_after_the_boundary_changes_nothing(case, tiny_model, rows, tmp_path):
    settings = {**SETTINGS, **case}
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    # Four goes on from the boundary (or, without one, from the checkpoint before); five after it.
    for crash in (4, 5):
        output = tmp_path / f"run-{crash}"
        with pytest.raises(RuntimeError, match="crash"):
            quiet_tune(tiny_model, rows, output, listener=Crash(crash), **settings)
        again = quiet_tune(output=output, resume=True)
        assert again.losses == whole.losses
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_of_slora_reports_what_was_retained(tiny_model, rows, tmp_path):
    result = quiet_tune(tiny_model, rows, tmp_path / "run", **SETTINGS, method="slora")
    sparse, low = stage_records(read_metrics(tmp_path / "run"))
    assert (sparse["stage"], low["stage"]) == ("sparse", "low-rank")
    assert len(low["retained_energy_by_matrix"]) == 21
    assert result.stages[1]["retained_energy"] == low["retained_energy"] > 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| stage low-rank: retained energy | 0." in card


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_counts_what_learns(case, tiny_model, rows, tmp_path):
    settings = {**SETTINGS, **case}
    options = {"model": str(tiny_model), "data": str(rows), "output": str(tmp_path / "run")}
    lines = dry_run(assemble({}, options, settings)).lines()
    shapes = module_shapes(tiny_model).values()
    low_rank = sum(4 * (h_out + h_in) for h_out, h_in in shapes)
    assert any(line.startswith(f"trainable parameters: {low_rank:,} of ") for line in lines)
    if case["method"] == "slora":
        sparse = sum(round(0.1 * h_out * h_in) for h_out, h_in in shapes)
        stages = [line for line in lines if line.startswith("stage ")]
        assert [line.split(", ")[-1] for line in stages] == [
            f"{sparse:,} parameters",
            f"{low_rank:,} parameters",
        ]


@pytest.mark.parametrize("case", [CASES[0], {"method": "sparse_lora", "mask": "random"}])
def test_gradient_checkpointing_and_accumulation_change_no_loss(case, tiny_model, rows, tmp_path):
    settings = {**SETTINGS, **case, "max_steps": 4}
    if "dropout" in settings:
        settings["dropout"] = 0
    plain = quiet_tune(tiny_model, rows, tmp_path / "plain", **settings)
    sparing = quiet_tune(
        tiny_model, rows, tmp_path / "sparing", gradient_checkpointing=True, **settings
    )
    assert sparing.losses == pytest.approx(plain.losses, rel=1e-5)
    settings |= {"batch_size": 4, "gradient_accumulation": 1}
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    assert whole.losses == pytest.approx(plain.losses, rel=1e-4)


def make_trainer(config, folder, tmp_path):
    data = [{"prompt": f"What is {i} + 1?", "completion": f" It is {i + 1}."} for i in range(8)]
    return SFTTrainer(
        model=load_model(folder, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            max_steps=6,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=load_tokenizer(folder),
        peft_config=config,
    )


@pytest.mark.parametrize(
    ("config", "tuner"),
    [
        (SloraConfig(target_modules="all-linear", density=0.1), SloraModel),
        (SparseLoraConfig(target_modules="all-linear", density=0.1, r=4), SparseLoraModel),
    ],
)
def test_plain_trl_trains_saves_and_loads_them(config, tuner, tiny_model, tmp_path):
    config.task_type = "CAUSAL_LM"
    with quiet_libraries():
        trainer = make_trainer(config, tiny_model, tmp_path)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.2
    model = trainer.model
    assert isinstance(model.base_model, tuner)
    model.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    again = PeftModel.from_pretrained(
        load_model(tiny_model, dtype=torch.float32), tmp_path / "saved"
    )
    ids = torch.arange(30)[None] + 5
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, again.eval()(input_ids=ids).logits)
