"""Whole federated runs in one process, on the tiny model."""

import socket

import pytest
import torch
from federated_runs import LOW_RANK, federate, rounds_of, weights
from peft import PeftModel
from runs import quiet_tune

from gossamer.adapters.load import load_adapter
from gossamer.basemodel.load import load_model
from gossamer.errors import SettingError
from gossamer.federated.client import Learner
from gossamer.federated.settings import assemble_federated
from gossamer.methods.common.sparse_delta.mask import num_entries
from gossamer.training.outputs.metrics import eval_records, read_metrics

pytestmark = pytest.mark.usefixtures("no_pictures")


def products(folder):
    """B A of each layer of an adapter."""
    held = weights(folder)
    return {
        name: held[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in held.items()
        if "lora_A" in name
    }


def shapes(base):
    layers = load_model(base, dtype=torch.float32).named_modules()
    return [m.weight.shape for name, m in layers if name.endswith(("q_proj", "v_proj"))]


def sparse_round_bytes(shapes, density):
    """The values of the entries that learn, one way."""
    return 4 * sum(num_entries(shape, density) for shape in shapes)


def low_rank_round_bytes(shapes, rank):
    """A and B, one way: 4 r (h_out + h_in) each."""
    return 4 * rank * sum(height + width for height, width in shapes)


@pytest.fixture(scope="module")
def alone(tiny_model, rows, tmp_path_factory):
    """A run of one machine with the steps and rows of one client in one round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gossamer.training.run.draw_loss_curve", lambda *args, **options: None)
        return quiet_tune(
            tiny_model,
            rows,
            tmp_path_factory.mktemp("alone") / "run",
            max_steps=3,
            batch_size=4,
            learning_rate=3e-3,
            scheduler="constant",
            warmup=0,
            eval_data=str(rows),
            **LOW_RANK,
        )


@pytest.mark.parametrize("aggregation", ["fedit", "zero-pad", "fedex", "flex", "flora"])
def test_one_client_with_all_rows_learns_as_one_machine(
    aggregation, alone, tiny_model, rows, tmp_path
):
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=1, rounds=1, max_steps=3,
        aggregation=aggregation,
    )  # fmt: skip
    assert run.train_loss == pytest.approx(sum(alone.losses) / 3, abs=1e-7)
    assert run.eval_loss_before == alone.eval_loss_before
    if aggregation in ("fedit", "zero-pad"):
        assert run.eval_loss == alone.eval_loss
        for name, tensor in weights(alone.output).items():
            assert torch.equal(weights(run.output)[name], tensor), name
    assert run.eval_loss == pytest.approx(alone.eval_loss, abs=1e-6)
    found = products(run.output)
    for name, product in products(alone.output).items():
        # The others' scale is the same, whatever their rank.
        torch.testing.assert_close(found[name], product, rtol=1e-5, atol=1e-7)


def test_a_round_begins_where_the_one_before_ended(tiny_model, rows, tmp_path):
    """A client alone: the second round begins with the first one's factors and a new optimizer."""
    run = federate(tiny_model, rows, tmp_path / "run", clients=1, max_steps=1, batch_size=48)
    first = quiet_tune(
        tiny_model, rows, tmp_path / "first", max_steps=1, batch_size=48, learning_rate=3e-3,
        scheduler="constant", warmup=0, **LOW_RANK,
    )  # fmt: skip
    second = quiet_tune(
        tiny_model, rows, tmp_path / "second", max_steps=1, batch_size=48, learning_rate=3e-3,
        scheduler="constant", warmup=0, start_from=str(first.output), **LOW_RANK,
    )  # fmt: skip
    for name, tensor in weights(second.output).items():
        torch.testing.assert_close(weights(run.output)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("aggregation", "settings"),
    [
        ("fedit", {"split": "dirichlet:0.5", "split_by": "kind", "min_client_rows": 4}),
        ("ffa", {}),
        ("rolora", {"clients_per_round": 2}),
        ("flora", {"ranks": [4, 2], "clients_per_round": 2}),
        ("fedex", {"split": "column:kind"}),
        ("flex", {"ranks": [1, 4]}),
        ("zero-pad", {"ranks": [2, 4]}),
    ],
)
def test_clients_learn_and_the_adapter_is_one_for_peft(
    aggregation, settings, tiny_model, rows, tmp_path
):
    by_value = settings.get("split") == "column:kind"
    settings = {"clients": None if by_value else 3, **settings}
    run = federate(tiny_model, rows, tmp_path / "run", aggregation=aggregation, **settings)
    assert run.rounds == 2
    assert run.failures == 0
    assert run.eval_loss < run.eval_loss_before - 1e-3
    records = rounds_of(run)
    if aggregation in ("ffa", "rolora", "flora", "fedex"):
        assert max(record["distance"] for record in records) < 1e-5
    else:
        assert min(record["distance"] for record in records) > 1e-5
    # The server can load it, and PEFT: what it computes on the untouched base is what the
    # server's model does.
    load_adapter(run.output)
    model = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), run.output)
    again = evaluated(tiny_model, rows, model, tmp_path)
    assert again == pytest.approx(run.eval_loss, abs=2e-6)


def evaluated(base, rows, model, tmp_path):
    from gossamer.basemodel.load import load_tokenizer
    from gossamer.training.data import DataSettings, load_data
    from gossamer.training.evaluation.predict import log_probabilities

    data = load_data(DataSettings(data=str(rows)), load_tokenizer(base), seed=0).train
    found = [value for batch in log_probabilities(model.eval(), data) for value in batch]
    return -sum(found) / sum(row.trained_tokens for row in data)


@pytest.mark.parametrize("method", ["lora", "pissa", "federa"])
def test_a_client_learns_on_from_what_all_have_learnt(method, tiny_model, rows, tmp_path):
    run = federate(tiny_model, rows, tmp_path / "run", clients=2, method=method)
    own = quiet_tune(
        tiny_model,
        run.output / "clients" / "client-0.jsonl",
        tmp_path / "own",
        method=method,
        start_from=str(run.output),
        max_steps=1,
        learning_rate=3e-3,
        eval_data=str(rows),
        **LOW_RANK,
    )
    assert own.eval_loss_before == pytest.approx(run.eval_loss, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["flora", "fedex"])
def test_what_has_changed_its_base_is_no_start(aggregation, tiny_model, rows, tmp_path):
    options = {"aggregation": aggregation, "clients": 2, "rounds": 1}
    run = federate(tiny_model, rows, tmp_path / "run", **options)
    with pytest.raises(SettingError, match=f"aggregation {aggregation}, .* merge it into its base"):
        quiet_tune(tiny_model, rows, tmp_path / "own", start_from=str(run.output), **LOW_RANK)


def test_bytes_are_those_of_the_formulas(tiny_model, rows, tmp_path):
    """Both stages of SLoRA, as measured; halves where one factor learns."""
    methods = {**LOW_RANK, "sparse_share": 0.5, "density": 0.02}
    run = federate(
        tiny_model, rows, tmp_path / "slora", clients=3, method="slora", method_settings=methods
    )
    sparse, low_rank = rounds_of(run)
    assert [sparse["stage"], low_rank["stage"]] == ["sparse", "low-rank"]
    expected = sparse_round_bytes(shapes(tiny_model), 0.02)
    assert sparse["up"] == sparse["down"] == 3 * expected
    whole = low_rank_round_bytes(shapes(tiny_model), 4)
    assert low_rank["up"] == low_rank["down"] == 3 * whole
    halves = rounds_of(federate(tiny_model, rows, tmp_path / "ffa", clients=3, aggregation="ffa"))
    only_b = 4 * 4 * sum(height for height, _ in shapes(tiny_model))
    assert [record["up"] for record in halves] == [3 * only_b] * 2
    assert [record["down"] for record in halves] == [3 * whole, 3 * only_b]
    stacked = rounds_of(
        federate(tiny_model, rows, tmp_path / "flora", clients=3, aggregation="flora")
    )
    assert [record["up"] for record in stacked] == [3 * whole] * 2
    assert [record["down"] for record in stacked] == [3 * whole, 3 * 3 * whole]


def test_slora_begins_its_factors_with_what_the_entries_learnt(
    tiny_model, rows, tmp_path, monkeypatch
):
    """With the residual kept, the second stage begins as the first one ended."""
    seen = []
    enter, train = Learner.enter, Learner.train

    def entered(self, stage):
        before = self.evaluate(self.prepared.data.eval), self.tensors()
        enter(self, stage)
        seen.append((*before, self.evaluate(self.prepared.data.eval), self.fixed()))

    def masked(self, order, tensors, own):
        reply = train(self, order, tensors, own)
        indices = {n: b.clone() for n, b in self.model.named_buffers() if "slora_index" in n}
        if indices:
            masks.append(indices)
        return reply

    masks = []
    monkeypatch.setattr(Learner, "enter", entered)
    monkeypatch.setattr(Learner, "train", masked)
    settings = {**LOW_RANK, "sparse_share": 0.5, "density": 0.05, "keep_residual": True}
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=2, method="slora", method_settings=settings
    )
    ((before, values, after, kept),) = seen
    assert after == pytest.approx(before, abs=1e-5)
    assert before < run.eval_loss_before
    for name, value in values.items():
        assert torch.equal(kept[name.replace("slora_values", "slora_kept")], value)
    # Every client had the same mask.
    assert all(torch.equal(masks[0][name], m[name]) for m in masks for name in masks[0])
    sent = rounds_of(run)
    residual = sparse_round_bytes(shapes(tiny_model), 0.05)
    assert sent[1]["down"] == 2 * (low_rank_round_bytes(shapes(tiny_model), 4) + residual)


@pytest.mark.slow
def test_slora_without_sparse_rounds_is_lora(tiny_model, rows, tmp_path):
    plain = federate(tiny_model, rows, tmp_path / "lora", clients=2)
    none = federate(
        tiny_model, rows, tmp_path / "slora", clients=2, method="slora",
        method_settings={**LOW_RANK, "sparse_share": 0},
    )  # fmt: skip
    for name, tensor in weights(plain.output).items():
        assert torch.equal(weights(none.output)[name], tensor)


def test_federa_leaves_an_adapter_of_the_untouched_base(tiny_model, rows, tmp_path):
    run = federate(tiny_model, rows, tmp_path / "run", clients=2, method="federa")
    assert run.eval_loss < run.eval_loss_before
    whole = low_rank_round_bytes(shapes(tiny_model), 4)
    assert [record["down"] for record in rounds_of(run)] == [2 * whole] * 2
    model = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), run.output)
    assert model.peft_config["default"].r == 8
    again = evaluated(tiny_model, rows, model, tmp_path)
    assert again == pytest.approx(run.eval_loss, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"aggregation": "fedex"}, marks=pytest.mark.slow),
        {"method": "slora", "method_settings": {**LOW_RANK, "sparse_share": 0.4}},
        pytest.param({"method": "federa", "clients_per_round": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_figures(
    settings, tiny_model, rows, tmp_path, monkeypatch
):
    settings = {"clients": 3, "rounds": 3, **settings}
    whole = federate(tiny_model, rows, tmp_path / "whole", **settings)
    train = Learner.train

    def stopped(self, order, tensors, own):
        if order.number == 3:
            raise KeyboardInterrupt
        return train(self, order, tensors, own)

    monkeypatch.setattr(Learner, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        federate(tiny_model, rows, tmp_path / "parts", **settings)
    monkeypatch.setattr(Learner, "train", train)
    parts = federate(tiny_model, rows, tmp_path / "parts", resume=True, **settings)
    losses = [
        [(r["step"], r.get("loss"), r.get("eval_loss")) for r in read_metrics(run.output)]
        for run in (whole, parts)
    ]
    assert losses[0] == losses[1]
    for name, tensor in weights(whole.output).items():
        torch.testing.assert_close(weights(parts.output)[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_round_goes_on_without_a_client_that_fails(tiny_model, rows, tmp_path, monkeypatch):
    train = Learner.train

    def failing(self, order, tensors, own):
        reply = train(self, order, tensors, own)
        if order.number == 1 and order.seed != 0:
            raise OSError("the disk of this client is full")
        return reply

    monkeypatch.setattr(Learner, "train", failing)
    run = federate(tiny_model, rows, tmp_path / "run", clients=3)
    first, second = rounds_of(run)
    assert first["clients"] == ["0"]
    assert second["clients"] == ["0", "1", "2"]
    assert first["failed"] == dict.fromkeys("12", "OSError: the disk of this client is full")
    assert run.failures == 2
    monkeypatch.setattr(Learner, "train", train)
    alone = federate(tiny_model, tmp_path / "run/clients/client-0.jsonl", tmp_path / "alone",
                     clients=1, rounds=1, eval_data=str(rows))  # fmt: skip
    # The round is that of the one client which answered.
    evals = [record["eval_loss"] for record in eval_records(read_metrics(run.output))]
    assert evals[1] == pytest.approx(alone.eval_loss, abs=1e-6)


def test_nothing_is_reached_over_a_network(tiny_model, rows, tmp_path, monkeypatch):
    def refused(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "bind", refused)
    assert federate(tiny_model, rows, tmp_path / "run", clients=2, rounds=1).rounds == 1


def test_an_exported_rank_is_cut_and_its_error_told(tiny_model, rows, tmp_path):
    options = {"clients": 3, "aggregation": "flora", "rounds": 1}
    exact = federate(tiny_model, rows, tmp_path / "exact", **options)
    cut = federate(tiny_model, rows, tmp_path / "cut", export_rank=2, **options)
    assert exact.export_rank == 12
    assert exact.export_error is None
    assert cut.export_rank == 2
    found, wanted = products(cut.output), products(exact.output)
    missed = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    whole = sum(float(product.square().sum()) for product in wanted.values())
    assert cut.export_error == pytest.approx((missed / whole) ** 0.5, rel=1e-4)
    assert cut.export_error > 0.01


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"split": "dirichlet:0.1"}, "needs split_by"),
        ({"split_by": "kind"}, "split_by is for split dirichlet"),
        ({"split": "column:colour"}, "column 'colour'"),
        ({"split": "column:kind", "clients": 2}, "has 3 values"),
        ({"clients": 40}, "do not give each min_client_rows=8"),
        ({"aggregation": "fedit", "ranks": [2]}, "take flora, flex or zero-pad"),
        ({"aggregation": "flex", "ranks": [8]}, "above the method's rank 4"),
        ({"aggregation": "fedit", "export_rank": 2}, "leaves the method's rank"),
        ({"aggregation": "flora", "method": "slora"}, "cannot go with method 'slora'"),
        ({"method": "shira"}, "cannot go with method 'shira'"),
        ({"processes": 2}, "processes cannot be had in federated rounds"),
        ({"objective": "dpo"}, "clients learn completions"),
        ({"privacy": "server"}, "add --flower"),
        ({"privacy": "server", "aggregation": "flex"}, "take aggregation fedit or ffa"),
        ({"privacy": "local", "method": "federa"}, "sends more than what learns"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    settings, reason, tiny_model, rows, tmp_path
):
    methods = {} if settings.get("method") == "shira" else LOW_RANK
    with pytest.raises(SettingError, match=reason):
        federate(tiny_model, rows, tmp_path / "run", method_settings=methods, **settings)
    assert not (tmp_path / "run").exists()


def test_settings_come_from_files_options_and_assignments():
    made = assemble_federated(
        {"model": "m", "data": "d", "output": "o", "rounds": 3, "max_steps": 5},
        {"clients": 2, "rounds": None},
        {"rank": 2, "batch_size": 1, "split": "iid"},
    )
    assert (made.rounds, made.clients, made.max_steps, made.batch_size) == (3, 2, 5, 1)
    assert made.method_settings["rank"] == 2
    assert made.scheduler == "constant"
