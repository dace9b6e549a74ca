"""`kill -9` at any moment and `resume` give the losses of a run that was never killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import write_rows

from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records

HERE = Path(__file__).parent
HELPERS = HERE.parents[1] / "helpers"


def losses(folder):
    records = read_metrics(folder)
    steps = [(r["step"], r["loss"], r["learning_rate"]) for r in train_records(records)]
    return steps, [(r["step"], r["eval_loss"]) for r in eval_records(records)]


def check(tiny_model, tmp_path, *, kills, seed):
    data = write_rows(tmp_path / "rows.jsonl")
    output = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable,
            HERE / "kill_worker.py",
            tiny_model,
            data,
            output,
            str(kills),
            str(seed),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == f"killed {kills}"
    whole = tmp_path / "run-whole"
    assert len(losses(whole)[0]) == 8 * (kills + 1)
    assert losses(output) == losses(whole)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_one_kill(tiny_model, tmp_path):
    check(tiny_model, tmp_path, kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_ten_kills(tiny_model, tmp_path, seed):
    check(tiny_model, tmp_path, kills=10, seed=seed)
