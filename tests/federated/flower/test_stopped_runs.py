"""Runs over Flower that were stopped go on to the figures of one that was not."""

import sys
from importlib.util import find_spec

import pytest
import torch
from federated_runs import LOW_RANK, federate, rounds_of, settings_of, weights

pytest.importorskip("flwr", reason="flwr is not installed; make test-federated runs these tests")

from flwr.app import Context, RecordDict

from gossamer.errors import CheckpointError
from gossamer.federated.client import Learner
from gossamer.federated.coordinator import Coordinator
from gossamer.federated.flower.local_grid import LocalGrid
from gossamer.federated.flower.simulate import simulate_over_flower
from gossamer.federated.flower.write_app import write_app
from gossamer.training.outputs.metrics import read_metrics, train_records

RESIDUAL = {
    "method": "slora",
    "method_settings": {**LOW_RANK, "sparse_share": 0.4, "keep_residual": True},
    "rounds": 4,
}
CASES = {
    "fedit": {},
    "rolora": {"aggregation": "rolora", "clients_per_round": 2, "rounds": 4},
    "flora": {"aggregation": "flora", "ranks": [4, 2]},
    "fedex": {"aggregation": "fedex", "clients_per_round": 2, "rounds": 4},
    # Stopped in the round with which the second stage begins, and in one after it.
    "slora": {"method": "slora", "method_settings": {**LOW_RANK, "sparse_share": 0.6}},
    "residual": {**RESIDUAL, "clients_per_round": 2},
    "federa": {"method": "federa", "clients_per_round": 2, "rounds": 4},
}
MEASURED = ("step", "loss", "eval_loss", "clients", "rows", "up", "down", "wire_up", "wire_down")


def wanted(base, rows, output, **settings):
    return settings_of(base, rows, output, **{"clients": 3, "rounds": 3, **settings})


def stop_in_round(number, run):
    """Carry out a run that is interrupted in a round."""
    train = Learner.train

    def stopped(self, order, tensors, own):
        if order.number == number:
            raise KeyboardInterrupt
        return train(self, order, tensors, own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run()


def figures(output):
    """What two runs have in common; a round's time is its own."""
    return [{n: r[n] for n in MEASURED if n in r} for r in read_metrics(output)]


def check_same(whole, parts):
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_to_the_same_figures(case, tiny_model, rows, tmp_path):
    options, told = CASES[case], []
    whole = simulate_over_flower(wanted(tiny_model, rows, tmp_path / "whole", **options))
    settings = wanted(tiny_model, rows, tmp_path / "parts", **options)
    stop_in_round(3, lambda: simulate_over_flower(settings))
    assert len(train_records(read_metrics(tmp_path / "parts"))) == 2
    parts = simulate_over_flower(settings, resume=True, tell=told.append)
    assert "going on after round 2" in told
    assert figures(parts.output) == figures(whole.output)
    check_same(whole.output, parts.output)
    with pytest.raises(CheckpointError, match="is finished"):
        simulate_over_flower(settings, resume=True)


def test_what_is_sent_again_is_told_and_not_counted(tiny_model, rows, tmp_path):
    told = []
    settings = wanted(tiny_model, rows, tmp_path / "run", aggregation="ffa", clients=2)
    stop_in_round(2, lambda: simulate_over_flower(settings))
    run = simulate_over_flower(settings, resume=True, tell=told.append)
    first, second, _ = rounds_of(run)
    # A went out in the first round; nodes that are new lack it.
    again = first["down"] - second["down"]
    assert [line for line in told if "again" in line] == [
        f"clients are sent again what they had: {again:,} B, which are not counted"
    ]


def test_a_run_goes_on_in_another_way_than_it_began(tiny_model, rows, tmp_path):
    options = {"aggregation": "fedex", "clients": None, "split": "column:kind"}
    whole = federate(tiny_model, rows, tmp_path / "whole", rounds=3, **options)
    ours = wanted(tiny_model, rows, tmp_path / "ours", **options)
    from gossamer.federated.run import simulate

    stop_in_round(3, lambda: simulate(ours))
    check_same(whole.output, simulate_over_flower(ours, resume=True).output)
    theirs = wanted(tiny_model, rows, tmp_path / "theirs", **options)
    stop_in_round(2, lambda: simulate_over_flower(theirs))
    check_same(whole.output, simulate(theirs, resume=True).output)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_run_goes_on_in_processes(tiny_model, rows, tmp_path):
    whole = federate(tiny_model, rows, tmp_path / "whole", clients=2, **RESIDUAL)
    settings = wanted(tiny_model, rows, tmp_path / "parts", clients=2, **RESIDUAL)
    stop_in_round(4, lambda: simulate_over_flower(settings))
    check_same(whole.output, simulate_over_flower(settings, at_once=2, resume=True).output)


def test_a_run_that_was_stopped_before_its_result_leaves_it(
    tiny_model, rows, tmp_path, monkeypatch
):
    settings = wanted(tiny_model, rows, tmp_path / "run", clients=2, rounds=1)

    def stopped(self):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            simulate_over_flower(settings)
    assert simulate_over_flower(settings, resume=True).rounds == 1
    assert weights(tmp_path / "run")


def test_a_written_app_goes_on(tiny_model, rows, tmp_path, monkeypatch):
    ours = federate(tiny_model, rows, tmp_path / "ours", clients=2)
    settings = settings_of(tiny_model, rows, tmp_path / "theirs", clients=2)
    write_app(settings, tmp_path / "app")
    monkeypatch.syspath_prepend(tmp_path / "app")
    import gossamer_app.client
    import gossamer_app.server

    files = [tmp_path / "ours" / "clients" / f"client-{n}.jsonl" for n in range(2)]
    nodes = [{"data": str(file), "partition-id": n} for n, file in enumerate(files)]

    def start(resume):
        grid = LocalGrid(gossamer_app.client.app, nodes)
        gossamer_app.server.app(grid, Context(1, 0, {}, RecordDict(), {"resume": resume}))

    stop_in_round(2, lambda: start(resume=False))
    start(resume=True)
    check_same(ours.output, tmp_path / "theirs")
    for name in ("gossamer_app", "gossamer_app.client", "gossamer_app.server"):
        sys.modules.pop(name)
