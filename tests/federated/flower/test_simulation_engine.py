"""Flower's simulation engine, whose clients are processes of Ray: the numbers of our own loop."""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from federated_runs import LOW_RANK, federate, rounds_of, settings_of, weights

pytest.importorskip("flwr", reason="flwr is not installed; make test-federated runs these tests")

from gossamer.errors import SettingError, TrainingError
from gossamer.federated.flower.simulate import simulate_over_flower
from gossamer.training.outputs.metrics import eval_records, read_metrics

SAME = {
    "fedex": {"aggregation": "fedex", "clients_per_round": 2},
    "residual": {
        "method": "slora",
        "method_settings": {**LOW_RANK, "sparse_share": 0.4, "keep_residual": True},
        "clients_per_round": 2,
        "rounds": 3,
    },
}
# Not importorskip: Ray reads whether it asks for tokens when it is loaded.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None, reason="ray is not installed; make test-federated runs these"
    ),
]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    # The engine writes it.
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


def on_engine(base, rows, output, **settings):
    wanted = settings_of(base, rows, output, **{"clients": 3, **settings})
    return simulate_over_flower(wanted, at_once=2)


@pytest.mark.parametrize("case", SAME)
def test_it_is_what_our_own_loop_computes(case, tiny_model, rows, tmp_path):
    ours = federate(tiny_model, rows, tmp_path / "ours", **{"clients": 3, **SAME[case]})
    theirs = on_engine(tiny_model, rows, tmp_path / "theirs", **SAME[case])
    assert theirs.failures == 0
    for one, other in zip(rounds_of(ours), rounds_of(theirs), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert [other[name] for name in ("clients", "rows", "up", "down")] == [
            one[name] for name in ("clients", "rows", "up", "down")
        ]
    losses = [
        [record["eval_loss"] for record in eval_records(read_metrics(run.output))]
        for run in (ours, theirs)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for name, tensor in weights(ours.output).items():
        torch.testing.assert_close(weights(theirs.output)[name], tensor, rtol=0, atol=1e-6)


def test_its_processes_obey_those_who_have_the_token_of_the_run(tiny_model, rows, tmp_path):
    found = []

    def call(line):
        if not line.startswith("round 1"):
            return
        import ray

        address = ray.get_runtime_context().gcs_address
        code = f"import ray; ray.init(address={address!r}, logging_level=50)"
        for token in ("0" * 64, os.environ["RAY_AUTH_TOKEN"]):
            answer = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "RAY_AUTH_TOKEN": token},
                capture_output=True,
                text=True,
            )
            found.append((answer.returncode, "ConnectionError" in answer.stderr))

    simulate_over_flower(
        settings_of(tiny_model, rows, tmp_path / "run", clients=1, rounds=1), at_once=1, tell=call
    )
    assert found == [(1, True), (0, False)]


def test_what_fails_in_a_process_is_told(tiny_model, rows, tmp_path, monkeypatch):
    """The file of a client is gone when its process wants to read it."""
    from gossamer.federated import rows as module

    write, told = module.SharedRows.write, []

    def written(self, folder):
        paths = write(self, folder)
        return [paths[0], paths[1].with_name("gone.jsonl")]

    monkeypatch.setattr(module.SharedRows, "write", written)
    run = simulate_over_flower(
        settings_of(tiny_model, rows, tmp_path / "run", clients=2, rounds=1),
        at_once=1,
        tell=told.append,
    )
    assert rounds_of(run)[0]["clients"] == ["0"]
    assert run.failures == 1
    assert any("client 1 failed: DataError" in line and "gone.jsonl" in line for line in told)


def test_an_engine_that_cannot_start_is_one_line(tiny_model, rows, tmp_path, monkeypatch):
    bad = {"init_args": {"address": "local", "num_cpus": -1}}
    monkeypatch.setattr("gossamer.federated.flower.engine._resources", lambda *numbers: bad)
    with pytest.raises(TrainingError, match="simulation has failed: ") as caught:
        on_engine(tiny_model, rows, tmp_path / "run")
    # What began the chain of errors, in one line.
    assert "must be nonnegative" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ray_that_would_obey_anyone_is_refused(tiny_model, rows, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(SettingError, match="before Ray is loaded"):
        on_engine(tiny_model, rows, tmp_path / "run")
