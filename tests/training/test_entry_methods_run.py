"""Runs of the methods that change single entries: exact resume, accumulation, plain TRL."""

import pytest
from runs import quiet_tune, write_rows

from gossamer.training.dry_run import dry_run
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics, stage_records
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


# Four goes on from the boundary (or, without one, from the checkpoint before); five after it.
@pytest.mark.parametrize(
    ("case", "crashes"), list(zip(CASES, [(4, 5), (4,), (5,)], strict=True)), ids=str
)
def test_a_crash_after_the_boundary_changes_nothing(case, crashes, tiny_model, rows, tmp_path):
    settings = {**SETTINGS, **case}
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    for crash in crashes:
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
