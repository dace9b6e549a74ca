"""Nodes that go, come back without a memory, or send what no adapter can be made of."""

import pytest
from federated_runs import check_same, federate, rounds_of, settings_of

pytest.importorskip("flwr", reason="flwr is not installed; make test-federated runs these tests")

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from gossamer.federated.client import Learner
from gossamer.federated.flower import simulate
from gossamer.federated.flower.local_grid import LocalGrid
from gossamer.federated.flower.messages import ARRAYS, METRICS


def over(grid, monkeypatch, base, rows, output, *, told=None, **settings):
    """Carry out a run whose clients are reached through that class of grids."""
    monkeypatch.setattr(simulate, "LocalGrid", grid)
    made = settings_of(base, rows, output, **{"clients": 3, **settings})
    tell = (lambda line: None) if told is None else told.append
    return simulate.simulate_over_flower(made, tell=tell)


@pytest.mark.parametrize("privacy", ["none", "server"])
@pytest.mark.parametrize("kind", ["node_unavail", "msg_unavail"])
def test_a_round_goes_on_without_a_node_that_is_gone(
    kind, privacy, tiny_model, rows, tmp_path, monkeypatch
):
    class Gone(LocalGrid):
        """The superlink answers for a node that is offline, in its own name."""

        def _answer(self, message):
            reply = super()._answer(message)
            metadata = message.metadata
            if (metadata.group_id, metadata.dst_node_id) == ("1", 2):
                return create_message_error_unavailable_res_message(metadata, kind)
            return reply

    run = over(Gone, monkeypatch, tiny_model, rows, tmp_path / "run", privacy=privacy)
    first, second = rounds_of(run)
    assert first["clients"] == ["0", "2"]
    assert "unavailable" in first["failed"]["1"].lower()
    assert second["clients"] == ["0", "1", "2"]


def test_a_node_that_never_answers_is_named(tiny_model, rows, tmp_path, monkeypatch):
    waits = []

    class Silent(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            waits.extend((timeout, m.metadata.ttl) for m in messages if m.metadata.group_id)
            replies = super().send_and_receive(messages, timeout=timeout)
            return [r for r in replies if (r.metadata.group_id, r.metadata.src_node_id) != ("1", 3)]

    run = over(Silent, monkeypatch, tiny_model, rows, tmp_path / "run", rounds=1, round_seconds=9e5)
    assert {timeout for timeout, _ in waits} == {9e5}
    # A message that has expired is no longer answered.
    assert min(ttl for _, ttl in waits) > 9e5
    assert rounds_of(run)[0]["failed"] == {"2": "it did not answer in time"}


def without(content, name):
    del content[name]


def arrays(content, change):
    held = content[ARRAYS].to_numpy_ndarrays()
    changed = change(dict(zip(content[ARRAYS], held, strict=True)))
    content[ARRAYS] = ArrayRecord({n: Array(a) for n, a in changed.items()})


def metrics(content, **changes):
    content[METRICS] = MetricRecord({**content[METRICS], **changes})


BAD = {
    1: (lambda c: without(c, ARRAYS), "has the records"),
    2: (lambda c: without(c, METRICS), "has the records"),
    3: (lambda c: arrays(c, lambda held: dict(list(held.items())[1:])), "its reply lacks"),
    4: (lambda c: arrays(c, lambda held: {**held, "more": np.ones(1)}), "its reply has 'more'"),
    5: (lambda c: arrays(c, lambda held: {n: a.T for n, a in held.items()}), "in shape"),
    6: (lambda c: arrays(c, lambda held: {n: a * np.nan for n, a in held.items()}), "not finite"),
    7: (lambda c: metrics(c, **{"num-examples": 10**12}), "rows"),
    8: (lambda c: metrics(c, **{"num-examples": 0}), "rows"),
    9: (lambda c: metrics(c, **{"num-examples": 0.5}), "rows"),
}


@pytest.mark.parametrize("privacy", ["none", "server"])
def test_replies_that_no_adapter_can_be_made_of_are_left_out(
    privacy, tiny_model, rows, tmp_path, monkeypatch
):
    class Bad(LocalGrid):
        def _answer(self, message):
            reply = super()._answer(message)
            client = message.metadata.dst_node_id - 1
            if message.metadata.group_id == "1" and client in BAD:
                BAD[client][0](reply.content)
            return reply

    settings = {"clients": 10, "min_client_rows": 4, "max_steps": 1, "privacy": privacy}
    run = over(Bad, monkeypatch, tiny_model, rows, tmp_path / "run", **settings)
    first, second = rounds_of(run)
    assert first["clients"] == ["0"]
    for client, (_, reason) in BAD.items():
        assert reason in first["failed"][str(client)]
    assert len(second["clients"]) == 10
    assert "failed" not in second


@pytest.mark.parametrize("aggregation", ["rolora", "flora"])
def test_a_node_that_lost_its_memory_is_sent_all_again(
    aggregation, tiny_model, rows, tmp_path, monkeypatch
):
    class Restarted(LocalGrid):
        """With its key a supernode keeps its id; what it remembered is gone."""

        def _answer(self, message):
            if (message.metadata.group_id, message.metadata.dst_node_id) == ("3", 2):
                self._contexts[2].state = RecordDict()
            return super()._answer(message)

    settings = {"aggregation": aggregation, "rounds": 4}
    run = over(Restarted, monkeypatch, tiny_model, rows, tmp_path / "run", **settings)
    records = rounds_of(run)
    assert "does not have what it was sent" in records[2]["failed"]["1"]
    assert [len(record["clients"]) for record in records] == [3, 3, 2, 3]
    # What it was sent again is counted.
    assert records[3]["down"] > records[2]["down"]
    train, calls = Learner.train, []

    def failing(self, order, tensors, own):
        calls.append(order.number)
        if calls.count(3) == 2 and order.number == 3:
            raise OSError("it fails in the third round, and remembers")
        return train(self, order, tensors, own)

    monkeypatch.setattr(Learner, "train", failing)
    same = federate(tiny_model, rows, tmp_path / "same", clients=3, **settings)
    assert [len(record["clients"]) for record in rounds_of(same)] == [3, 3, 2, 3]
    check_same(same, run)


@pytest.mark.parametrize("old", ["gone", "still listed"])
def test_a_new_node_takes_the_place_of_the_client_that_it_says_it_is(
    old, tiny_model, rows, tmp_path, monkeypatch
):
    class Renewed(LocalGrid):
        """Without a key a supernode that was restarted has another id."""

        asked = 0

        def get_node_ids(self):
            self.asked += 1
            if self.asked == 3:
                self._contexts[7] = Context(1, 7, {"partition-id": 1}, RecordDict(), {})
                # It says nothing, and stays out.
                self._contexts[8] = Context(1, 8, {}, RecordDict(), {})
                if old == "gone":
                    del self._contexts[2]
            return super().get_node_ids()

        def _answer(self, message):
            used.append(message.metadata.dst_node_id)
            return super()._answer(message)

    used, told = [], []
    settings = {"aggregation": "fedex", "rounds": 3}
    out = tmp_path / "run"
    run = over(Renewed, monkeypatch, tiny_model, rows, out, told=told, **settings)
    assert run.failures == 0
    assert used[-3:] == [1, 7, 3]
    assert "round 2: client 1 has a new node" in told
    check_same(federate(tiny_model, rows, tmp_path / "same", clients=3, **settings), run)


def test_what_is_counted_is_what_is_sent(tiny_model, rows, tmp_path, monkeypatch):
    """Private clients of ffa are sent B alone, which is all that they send."""
    options = {"aggregation": "ffa", "privacy": "client", "rounds": 1}
    (record,) = rounds_of(
        over(LocalGrid, monkeypatch, tiny_model, rows, tmp_path / "run", **options)
    )
    assert record["down"] == record["up"]
