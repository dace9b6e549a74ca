"""A run on two processes beside one that has a batch twice as large."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from runs import quiet_tune, step_losses, write_rows
from safetensors.torch import load_file

from gossamer.adapters.layout import WEIGHTS_FILE
from gossamer.errors import SettingError, TrainingError
from gossamer.training.loop.callback import RunInterrupted
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records

HERE = Path(__file__).parent
HELPERS = HERE.parents[1] / "helpers"
STEPS = 8
SETTINGS = {
    "rank": 4,
    "learning_rate": 3e-3,
    "gradient_accumulation": 2,
    "max_steps": STEPS,
    "save_every": 3,
    "eval_every": 4,
    # Not a multiple of the batches of two processes.
    "eval_split": 5,
    "device": "cpu",
}


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


def on_two(model, rows, output, **changes):
    settings = {**SETTINGS, "processes": 2, "batch_size": 2, "dropout": 0.0, **changes}
    return quiet_tune(model, rows, output, **settings)


def lines(folder):
    """The metrics without what depends on the clock."""
    timed = ("time", "seconds", "tokens_per_second")
    return [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(folder)]


def assert_close(folder, other, tolerance=1e-6):
    ours, theirs = read_metrics(folder), read_metrics(other)
    for records in (train_records, eval_records):
        one, two = records(ours), records(theirs)
        assert [r["step"] for r in one] == [r["step"] for r in two]
        for name in ("loss", "grad_norm", "eval_loss"):
            values = [r[name] for r in two if name in r]
            assert [r[name] for r in one if name in r] == pytest.approx(values, rel=tolerance)
        for name in ("tokens", "trained_tokens", "eval_tokens"):
            assert [r.get(name) for r in one] == [r.get(name) for r in two]


def followers():
    children = psutil.Process().children()
    return [child for child in children if "gossamer.training.follower" in child.cmdline()]


def test_two_processes_learn_as_one_with_a_batch_twice_as_large(tiny_model, rows, tmp_path):
    quiet_tune(tiny_model, rows, tmp_path / "one", batch_size=4, dropout=0.0, **SETTINGS)
    result = on_two(tiny_model, rows, tmp_path / "two")
    assert_close(tmp_path / "two", tmp_path / "one")
    assert result.steps == STEPS
    assert not followers()
    # The folder is that of one run, with the random state of both processes.
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}
    checkpoint = tmp_path / "two" / "checkpoints" / f"step-{STEPS}"
    assert {"rng_state_0.pth", "rng_state_1.pth"} < {path.name for path in checkpoint.iterdir()}
    assert yaml.safe_load((tmp_path / "two" / "run.yaml").read_text())["processes"] == 2


class AtStep(Listener):
    """Does something after a step."""

    def __init__(self, step, act):
        self._step, self._act = step, act

    def step(self, record):
        if record["step"] == self._step:
            self._act()


@pytest.mark.slow
def test_stopped_killed_and_resumed_runs_are_those_that_nothing_disturbed(
    tiny_model, rows, tmp_path
):
    # With dropout, so that the random state of each process counts.
    on_two(tiny_model, rows, tmp_path / "whole", dropout=0.3)
    stopped = tmp_path / "stopped"
    stop = AtStep(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RunInterrupted):
        on_two(tiny_model, rows, stopped, dropout=0.3, listener=stop)
    assert [step for step, _ in step_losses(stopped)] in ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    quiet_tune(output=stopped, resume=True)
    assert lines(stopped) == lines(tmp_path / "whole")
    killed = tmp_path / "killed"
    kill = AtStep(5, lambda: followers()[0].send_signal(signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"process 1 of the run has ended: exit code -9"):
        on_two(tiny_model, rows, killed, dropout=0.3, listener=kill)
    quiet_tune(output=killed, resume=True)
    assert lines(killed) == lines(tmp_path / "whole")
    adapters = [
        (folder / WEIGHTS_FILE).read_bytes() for folder in (tmp_path / "whole", stopped, killed)
    ]
    assert len(set(adapters)) == 1


STUCK = """
import sys, time
from test_many_processes import AtStep, followers, on_two

def stuck():
    followers()[0].kill()
    while True:
        time.sleep(1)

on_two(*sys.argv[1:], listener=AtStep(3, stuck))
"""


@pytest.mark.slow
def test_a_lost_process_ends_one_that_would_not_notice(tiny_model, rows, tmp_path):
    """As in a call of NCCL, which waits for hours; gloo is told."""
    path = os.pathsep.join([str(HELPERS), str(HERE), os.environ.get("PYTHONPATH", "")])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STUCK, *map(str, (tiny_model, rows, tmp_path / "run"))],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    last = done.stderr.splitlines()[-1]
    assert last == "gossamer: error: process 1 of the run has ended: exit code -9"
    assert done.returncode == 1
    assert not list(scratch.glob("gossamer-ranks-*"))
    quiet_tune(output=tmp_path / "run", resume=True)
    assert len(step_losses(tmp_path / "run")) == STEPS


class Held(Listener):
    """Counts the weights that this process holds of the trained model."""

    def trained(self, model, result):
        self.weights = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
        self.blocks = sum(p.numel() for p in model.get_base_model().model.layers.parameters())


@pytest.mark.slow
def test_a_divided_base_learns_the_same(tiny_model, rows, tmp_path):
    # Samples and evaluations are forward passes too, which all processes take part in.
    more = {"samples": 2, "load_best_at_end": True, "save_every": 4}
    whole, divided = Held(), Held()
    on_two(tiny_model, rows, tmp_path / "whole", listener=whole, **more)
    on_two(tiny_model, rows, tmp_path / "divided", shard_base=True, listener=divided, **more)
    assert lines(tmp_path / "divided") == lines(tmp_path / "whole")
    one, two = tmp_path / "divided" / WEIGHTS_FILE, tmp_path / "whole" / WEIGHTS_FILE
    assert one.read_bytes() == two.read_bytes()
    texts = [json.loads((f / "samples.json").read_text()) for f in (one.parent, two.parent)]
    for samples in texts:
        for answered in samples["answers"]:
            answered.pop("seconds")
    assert texts[0] == texts[1]
    learnt = 0.1 * whole.blocks
    assert whole.weights - divided.weights == pytest.approx(whole.blocks / 2, abs=learnt)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"processes": 1}, "this one has one; give processes=2 or more"),
        ({"method": "full"}, "cannot go with method 'full': it learns the weights"),
        ({"method": "loraprune"}, "'loraprune': it compares the merged weights"),
        ({"method": "qlora"}, "cannot go with a base quantised as bnb-4bit"),
        ({"sparse_compute": "plan.yaml"}, "cannot go with sparse_compute"),
        ({"objective": "dpo"}, "cannot go with objective 'dpo'"),
    ],
)
def test_a_base_that_cannot_be_divided_is_refused(settings, why, tiny_model, rows, tmp_path):
    with pytest.raises(SettingError, match=why):
        quiet_tune(
            tiny_model, rows, tmp_path / "run", **{"processes": 2, "shard_base": True, **settings}
        )


METHODS = {
    "lora": {},
    "lora+checkpointing": {"gradient_checkpointing": True},
    "dora": {},
    "loreft": {},
    "slora": {},
    "smt": {"block_size": 4, "probe_batches": 3},
    "sparse_lora": {"mask": "gradient"},
    "slora+divided": {"shard_base": True},
    "smt+divided": {"block_size": 4, "probe_batches": 3, "shard_base": True},
    "loreft+divided": {"shard_base": True},
}


def launch(launcher, words):
    """Carry out runs in processes that a module has started."""
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(HERE / "torchrun_worker.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_processes_that_accelerate_has_started_learn_as_our_own(tiny_model, rows, tmp_path):
    order = {**SETTINGS, "batch_size": 2, "dropout": 0.0}
    (tmp_path / "orders.json").write_text(json.dumps({"launched": order}))
    words = [tiny_model, rows, tmp_path, tmp_path / "orders.json"]
    # It starts one process on a CPU, whatever number it is given, unless told this.
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch(launcher, words)
    on_two(tiny_model, rows, tmp_path / "own")
    record = yaml.safe_load((tmp_path / "launched" / "run.yaml").read_text())
    assert record["processes"] == 2
    assert lines(tmp_path / "launched") == lines(tmp_path / "own")
    own, launched = (tmp_path / name / WEIGHTS_FILE for name in ("own", "launched"))
    assert own.read_bytes() == launched.read_bytes()


@pytest.mark.slow
def test_methods_under_torchrun(tiny_model, rows, tmp_path):
    orders = {
        name: {
            **{k: v for k, v in SETTINGS.items() if k != "rank"},
            "method": name.partition("+")[0],
            "batch_size": 2,
            "gradient_accumulation": 1,
            **more,
        }
        for name, more in METHODS.items()
    }
    (tmp_path / "orders.json").write_text(json.dumps(orders))
    words = [tiny_model, rows, tmp_path, tmp_path / "orders.json"]
    launch(["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], words)
    for name, order in orders.items():
        alone = tmp_path / f"{name}-alone"
        quiet_tune(tiny_model, rows, alone, **{**order, "batch_size": 4, "shard_base": False})
        assert_close(tmp_path / name, alone)
        if name == "smt":
            places = [
                {
                    k: v
                    for k, v in load_file(folder / WEIGHTS_FILE).items()
                    if k.endswith("smt_blocks")
                }
                for folder in (tmp_path / name, alone)
            ]
            assert places[0].keys() == places[1].keys() != set()
            assert all(places[0][key].equal(places[1][key]) for key in places[0])
