"""What bodies mean, and which are refused with which field."""

import json
import subprocess
import sys

import pytest

from gossamer.errors import JobError, RequestError
from gossamer.jobs.request import parse_request, request_digest, resolve

FILE, HELD_OUT = "file-" + "a" * 24, "file-" + "b" * 24
PLAIN = {"model": "tiny", "training_file": FILE}


def meaning(body=None, *, rows=None, width=576, **more):
    request = parse_request({**PLAIN, **(body or {}), **more})
    return resolve(request, base="/models/tiny", width=lambda: width, seed=7, rows=rows)


def supervised(**hyperparameters):
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def test_a_plain_body_of_openais_takes_our_defaults():
    resolved = meaning()
    assert resolved.hyperparameters == {
        "n_epochs": 3.0,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
    }
    assert resolved.adapter["method"] == "lora"
    assert resolved.adapter["rank"] == 16
    assert resolved.run["data"] == "data/train.jsonl"
    assert resolved.run["eval_data"] is None
    assert resolved.run["output"] == "run"
    assert resolved.run["model"] == "/models/tiny"
    assert resolved.run["seed"] == 7
    assert not {"model", "data", "output", "device", "seed"} & resolved.training.keys()
    assert json.loads(json.dumps(resolved.as_record())) == resolved.as_record()


def test_hyperparameters_are_settings_and_the_multiplier_goes_by_the_width():
    given = {"n_epochs": 0.5, "batch_size": 4.0, "learning_rate_multiplier": 2}
    resolved = meaning(method=supervised(**given))
    assert resolved.run["epochs"] == 0.5
    assert resolved.run["batch_size"] == 4
    assert resolved.run["learning_rate"] == pytest.approx(2e-3)
    assert meaning(hyperparameters=given).run == resolved.run
    wide = meaning(method=supervised(learning_rate_multiplier=2), width=4096)
    assert wide.run["learning_rate"] == pytest.approx(4e-4)
    auto = dict.fromkeys(given, "auto")
    assert meaning(method=supervised(**auto)).run == meaning().run


def test_adapter_and_training_are_settings_by_their_own_names():
    body = {
        "adapter": {"method": "dora", "rank": 4},
        "training": {"max_length": 64, "eval_every": 20, "dtype": "fp32"},
        "validation_file": HELD_OUT,
    }
    resolved = meaning(body, rows=1000)
    assert (resolved.run["method"], resolved.run["method_settings"]["rank"]) == ("dora", 4)
    assert resolved.run["eval_data"] == "data/eval.jsonl"
    assert resolved.training["eval_every"] == 20
    assert resolved.training["dtype"] == "float32"


def test_held_out_rows_are_scored_five_times_a_run():
    resolved = meaning(validation_file=HELD_OUT, rows=800)
    assert resolved.run["eval_every"] == 300 // 5
    few = meaning(validation_file=HELD_OUT, rows=8)
    assert few.run["eval_every"] == 1
    assert meaning(rows=800).run["eval_every"] is None
    split = meaning(training={"eval_split": 0.1, "max_steps": 50}, rows=800)
    assert split.run["eval_every"] == 10


REFUSED = {
    "no model": ({"model": ""}, "model"),
    "no file": ({"training_file": "../etc"}, "training_file"),
    "not a file's": ({"validation_file": "ftjob-" + "a" * 24}, "validation_file"),
    "suffix": ({"suffix": "a/b"}, "suffix"),
    "long suffix": ({"suffix": "a" * 65}, "suffix"),
    "seed": ({"seed": -1}, "seed"),
    "unknown field": ({"trainig_file": FILE}, "trainig_file"),
    "integrations": ({"integrations": [{"type": "wandb"}]}, "integrations"),
    "dpo": ({"method": {"type": "dpo"}}, "method.type"),
    "strange method": ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
    "no object": ({"method": {"type": "supervised", "supervised": []}}, None),
    "unknown one": (
        {"method": supervised(lora_r=8)},
        "method.supervised.hyperparameters.lora_r",
    ),
    "not a number": ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
    "true": ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
    "infinite": ({"hyperparameters": {"n_epochs": float("inf")}}, "hyperparameters.n_epochs"),
    "half a row": ({"hyperparameters": {"batch_size": 1.5}}, "hyperparameters.batch_size"),
    "both places": (
        {"hyperparameters": {"n_epochs": 1}, "method": supervised(n_epochs=1)},
        "hyperparameters",
    ),
    "two rates": (
        {
            "hyperparameters": {"learning_rate_multiplier": 2},
            "training": {"learning_rate": 1e-3},
        },
        "training.learning_rate",
    ),
    "unknown adapter": ({"adapter": {"method": "lorra"}}, "adapter.method"),
    "unknown setting": ({"adapter": {"rnk": 8}}, "adapter"),
    "a path": ({"training": {"data": "/etc/passwd"}}, "training.data"),
    "a folder": ({"training": {"start_from": "/runs/x"}}, "training.start_from"),
    "a plan": ({"training": {"sparse_compute": "/x.yaml"}}, "training.sparse_compute"),
    "a tracker": ({"training": {"report_to": "wandb"}}, "training.report_to"),
    "unknown training": ({"training": {"max_lenght": 5}}, "training"),
    "metadata": ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    "long value": ({"metadata": {"k": "v" * 513}}, "metadata"),
    "a tuned model": ({"model": "ft:tiny:a::Abcdefgh"}, "model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_names_its_field(name):
    body, param = REFUSED[name]
    with pytest.raises((RequestError, JobError)) as refused:
        meaning(body)
    if param is not None:
        assert refused.value.param == param
    assert len(str(refused.value)) > 15


def test_nearest_names_are_told():
    with pytest.raises(RequestError, match="did you mean 'max_length'"):
        meaning(training={"max_lenght": 5})
    with pytest.raises(RequestError, match="did you mean 'rank'"):
        meaning(adapter={"rnk": 8})
    with pytest.raises(RequestError, match="did you mean 'training_file'"):
        meaning(trainig_file=FILE)


def test_bodies_are_known_again_whatever_the_order_of_their_fields():
    assert request_digest({"a": 1, "b": {"c": 2, "d": 3}}) == request_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert request_digest({"a": 1}) != request_digest({"a": 2})


def test_a_request_is_understood_without_the_training_packages():
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "numpy")
    code = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
        "from gossamer.jobs.request import parse_request, resolve\n"
        f"request = parse_request({PLAIN | {'adapter': {'method': 'smt'}}})\n"
        "resolve(request, base='x', width=lambda: 576, seed=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
