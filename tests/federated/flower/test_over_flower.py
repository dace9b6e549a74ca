"""Runs over Flower's messages: the numbers of our own loop, privacy, and no word to anyone."""

import os
import socket
import sys

import pytest
import torch
from federated_runs import LOW_RANK, federate, rounds_of, settings_of, weights

pytest.importorskip("flwr", reason="flwr is not installed; make test-federated runs these tests")

from flwr.app import Context, RecordDict

from gossamer.errors import SettingError, TrainingError
from gossamer.federated.client import Learner
from gossamer.federated.flower.local_grid import LocalGrid
from gossamer.federated.flower.nodes import find_clients
from gossamer.federated.flower.simulate import simulate_over_flower
from gossamer.federated.flower.write_app import read_settings, write_app
from gossamer.training.outputs.metrics import eval_records, read_metrics

SAME = {
    "fedit": {},
    "ffa": {"aggregation": "ffa"},
    "rolora": {"aggregation": "rolora", "clients_per_round": 2, "rounds": 3},
    "flora": {"aggregation": "flora", "clients_per_round": 2, "rounds": 3, "ranks": [4, 2]},
    "fedex": {"aggregation": "fedex", "clients_per_round": 2},
    "flex": {"aggregation": "flex", "ranks": [1, 4]},
    "slora": {"method": "slora", "method_settings": {**LOW_RANK, "sparse_share": 0.5}},
    "residual": {
        "method": "slora",
        "method_settings": {**LOW_RANK, "sparse_share": 0.4, "keep_residual": True},
        "clients_per_round": 2,
        "rounds": 3,
    },
    "federa": {"method": "federa", "clients_per_round": 2, "rounds": 3},
}


def over_flower(base, rows, output, **settings):
    return simulate_over_flower(settings_of(base, rows, output, **{"clients": 3, **settings}))


@pytest.mark.parametrize("case", SAME)
def test_it_is_what_our_own_loop_computes(case, tiny_model, rows, tmp_path):
    ours = federate(tiny_model, rows, tmp_path / "ours", **{"clients": 3, **SAME[case]})
    theirs = over_flower(tiny_model, rows, tmp_path / "theirs", **SAME[case])
    assert theirs.failures == 0
    for one, other in zip(rounds_of(ours), rounds_of(theirs), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert [other[name] for name in ("clients", "rows", "up", "down")] == [
            one[name] for name in ("clients", "rows", "up", "down")
        ]
        # Names and headers beside the values.
        assert other["wire_up"] > other["up"]
        assert other["wire_down"] > other["down"]
    losses = [
        [record["eval_loss"] for record in eval_records(read_metrics(run.output))]
        for run in (ours, theirs)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for name, tensor in weights(ours.output).items():
        torch.testing.assert_close(weights(theirs.output)[name], tensor, rtol=1e-5, atol=1e-6)


def test_neither_a_socket_nor_telemetry(tiny_model, rows, tmp_path, monkeypatch):
    from flwr.supercore import telemetry

    def refused(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "bind", refused)
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0" == telemetry.FLWR_TELEMETRY_ENABLED
    assert over_flower(tiny_model, rows, tmp_path / "run", rounds=1).rounds == 1


@pytest.mark.parametrize("privacy", ["none", "server", "client"])
def test_a_round_goes_on_without_a_client_that_fails(
    privacy, tiny_model, rows, tmp_path, monkeypatch
):
    train = Learner.train

    def failing(self, order, tensors, own):
        if order.number == 1 and order.seed != 0:
            raise OSError("the disk of this client is full")
        return train(self, order, tensors, own)

    monkeypatch.setattr(Learner, "train", failing)
    run = over_flower(tiny_model, rows, tmp_path / "run", privacy=privacy)
    first, second = rounds_of(run)
    assert first["clients"] == ["0"]
    assert second["clients"] == ["0", "1", "2"]
    assert "the disk of this client is full" in first["failed"]["1"]
    monkeypatch.setattr(Learner, "train", train)


@pytest.mark.parametrize("privacy", ["none", "server", "client"])
def test_no_answer_at_all_ends_the_run(privacy, tiny_model, rows, tmp_path, monkeypatch):
    def failing(self, order, tensors, own):
        raise OSError("no space")

    monkeypatch.setattr(Learner, "train", failing)
    with pytest.raises(TrainingError, match="round 1: no client has answered"):
        over_flower(tiny_model, rows, tmp_path / "run", privacy=privacy)


def moved(folder, base):
    """The norm of what one round has changed: B began at zero, and A as the seed says."""
    return sum(float((weights(folder)[n] - weights(base)[n]).square().sum()) for n in weights(base))


@pytest.fixture(scope="module")
def still(tiny_model, rows, tmp_path_factory):
    """A run that changes next to nothing, for what a run begins with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gossamer.federated.coordinator.draw_rounds", lambda *args: None)
        folder = tmp_path_factory.mktemp("still") / "run"
        return federate(tiny_model, rows, folder, clients=3, rounds=1, learning_rate=1e-30)


@pytest.mark.parametrize("privacy", ["server", "client"])
def test_clipping_bounds_what_a_round_changes(privacy, still, tiny_model, rows, tmp_path):
    """Without noise: one round moves no further than the longest change of a client."""
    options = {"rounds": 1, "privacy": privacy, "privacy_noise": 0.0}
    clipped = over_flower(tiny_model, rows, tmp_path / "run", privacy_clip=0.01, **options)
    assert 0.005 < moved(clipped.output, still.output) ** 0.5 <= 0.01 + 1e-6
    free = over_flower(tiny_model, rows, tmp_path / "free", privacy_clip=1e6, **options)
    assert moved(free.output, still.output) ** 0.5 > 0.05


def test_noise_has_the_deviation_that_was_asked_for(still, tiny_model, rows, tmp_path):
    noisy = over_flower(
        tiny_model, rows, tmp_path / "run", rounds=1, privacy="server", privacy_clip=0.01,
        privacy_noise=30.0,
    )  # fmt: skip
    count = sum(tensor.numel() for tensor in weights(noisy.output).values())
    # noise_multiplier * clip / clients, of each number.
    expected = 30 * 0.01 / 3
    found = (moved(noisy.output, still.output) / count) ** 0.5
    assert found == pytest.approx(expected, rel=0.1)


def test_noise_is_that_of_the_clients_that_answer(still, tiny_model, rows, tmp_path, monkeypatch):
    train = Learner.train

    def failing(self, order, tensors, own):
        if order.seed == 0:
            return train(self, order, tensors, own)
        raise OSError("no space")

    monkeypatch.setattr(Learner, "train", failing)
    options = {"rounds": 1, "privacy": "server", "privacy_clip": 0.01, "privacy_noise": 30.0}
    noisy = over_flower(tiny_model, rows, tmp_path / "run", **options)
    count = sum(tensor.numel() for tensor in weights(noisy.output).values())
    found = (moved(noisy.output, still.output) / count) ** 0.5
    assert found == pytest.approx(30 * 0.01, rel=0.1)


def test_clients_can_add_the_noise(still, tiny_model, rows, tmp_path):
    noisy = over_flower(
        tiny_model, rows, tmp_path / "run", rounds=1, privacy="local", privacy_clip=0.01,
        privacy_epsilon=1.0, privacy_delta=1e-5,
    )  # fmt: skip
    count = sum(tensor.numel() for tensor in weights(noisy.output).values())
    # The Gaussian mechanism of Flower's mod, for changes that differ by 2 * 0.01; mean of three.
    expected = 2 * 0.01 * (2 * torch.log(torch.tensor(1.25 / 1e-5))).sqrt() / 3**0.5
    found = (moved(noisy.output, still.output) / count) ** 0.5
    assert found == pytest.approx(float(expected), rel=0.1)


def test_ffa_keeps_a_private_too(still, tiny_model, rows, tmp_path):
    run = over_flower(
        tiny_model, rows, tmp_path / "run", aggregation="ffa", privacy="client", privacy_noise=1.0
    )
    for name, tensor in weights(still.output).items():
        changed = not torch.equal(weights(run.output)[name], tensor)
        assert changed == ("lora_B" in name)


def test_a_written_app_is_the_same_run(tiny_model, rows, tmp_path, monkeypatch):
    ours = federate(tiny_model, rows, tmp_path / "ours", clients=2)
    settings = settings_of(tiny_model, rows, tmp_path / "theirs", clients=2)
    written = write_app(settings, tmp_path / "app")
    assert "pyproject.toml" in written
    assert not any(name.endswith(".jsonl") for name in written)
    monkeypatch.syspath_prepend(tmp_path / "app")
    import gossamer_app.client
    import gossamer_app.server

    files = [tmp_path / "ours" / "clients" / f"client-{n}.jsonl" for n in range(2)]
    # The nodes come in another order, and say who they are.
    nodes = [{"data": str(files[n]), "partition-id": n} for n in (1, 0)]
    grid = LocalGrid(gossamer_app.client.app, nodes)
    gossamer_app.server.app(grid, Context(1, 0, {}, RecordDict(), {"resume": False}))
    for name, tensor in weights(ours.output).items():
        torch.testing.assert_close(weights(tmp_path / "theirs")[name], tensor, rtol=0, atol=1e-6)
    for name in ("gossamer_app", "gossamer_app.client", "gossamer_app.server"):
        sys.modules.pop(name)
    with pytest.raises(SettingError, match="exists"):
        write_app(settings, tmp_path / "app")


def test_a_written_app_runs_from_any_folder(tiny_model, rows, tmp_path, monkeypatch):
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "rows.jsonl").symlink_to(rows)
    monkeypatch.chdir(tmp_path)
    settings = settings_of("model", "rows.jsonl", "run")
    write_app(settings.model_copy(update={"start_from": "hub/name"}), tmp_path / "app")
    made = read_settings(tmp_path / "app" / "gossamer_app")
    assert made.model == str(tmp_path / "model")
    assert made.eval_data == made.data == str(tmp_path / "rows.jsonl")
    assert made.output == str(tmp_path / "run")
    # What is no path here is a name.
    assert made.start_from == "hub/name"
    assert "-c constraints-federated.txt" in (tmp_path / "app" / "README.md").read_text()


def test_settings_of_an_app_that_it_cannot_have(tiny_model, rows, tmp_path):
    for changes, reason in (
        ({"eval_data": None}, "rows of its own"),
        ({"split": "column:kind"}, "clients of an app have their own rows"),
        ({"leave_out": ["held-out"]}, "do not have the server's held-out rows"),
    ):
        settings = settings_of(tiny_model, rows, tmp_path / "run", **changes)
        with pytest.raises(SettingError, match=reason):
            write_app(settings, tmp_path / "app")
        assert not (tmp_path / "app").exists()


def test_nodes_get_numbers_and_each_has_its_own(tiny_model, rows, tmp_path):
    from gossamer.federated.flower.client_app import make_client_app

    app = make_client_app(settings_of(tiny_model, rows, tmp_path / "run"))
    assert find_clients(LocalGrid(app, [{}, {"partition-id": 0}, {}]), 3) == {0: 2, 1: 1, 2: 3}
    with pytest.raises(TrainingError, match="two nodes have partition-id 1"):
        find_clients(LocalGrid(app, [{"partition-id": 1}] * 2), 2)
    with pytest.raises(TrainingError, match="2 clients have partition-id 0 to 1"):
        find_clients(LocalGrid(app, [{"partition-id": 0}, {"partition-id": 7}]), 2)


def test_a_node_without_rows_says_how_to_give_them(tiny_model, rows, tmp_path):
    from gossamer.federated.flower.client_app import make_client_app
    from gossamer.federated.flower.server_app import serve
    from gossamer.training.prepare import prepare

    settings = settings_of(tiny_model, rows, tmp_path / "run", clients=1)
    told = []
    with pytest.raises(TrainingError, match="no client has answered"):
        serve(settings, prepare(settings), LocalGrid(make_client_app(settings), [{}]), told.append)
    assert any("--node-config" in line for line in told)
