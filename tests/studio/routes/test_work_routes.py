"""Comparisons, proofs and exports over HTTP, without anyone who carries them out."""

import io
import json
import random
import zipfile
from pathlib import Path

import pytest
from job_case import JOBS, PAIR

from gossamer.cli.main import main
from gossamer.errors import JobError
from gossamer.files import write_whole
from gossamer.jobs.data_folder import model_place
from gossamer.jobs.outcome import write_outcome
from gossamer.jobs.store.attempts import JobOutcome, OutcomeModel
from gossamer.jobs.store.records import SupervisorRecord

FAR = 4e9
COMPARISONS, EXPORTS = "/studio/api/comparisons", "/studio/api/exports"
METHODS = [{"method": "lora", "rank": 4}, {"method": "dora"}]


def body(rows, **fields):
    return {"model": "tiny", "training_file": rows, "suffix": "quiz", "methods": METHODS, **fields}


def begin(store, job_id):
    """Play the one who starts jobs."""
    row = SupervisorRecord(owner="o", place="here", pid=1, pid_started=1.0, lease_until=FAR)
    store.supervisor.take(row, lambda _: True)
    return store.attempts.begin(job_id, "o", lease_until=FAR)


def end(store, settings, job_id, outcome):
    """Play a worker that has ended."""
    attempt = begin(store, job_id)
    paths = settings.folder.job(job_id)
    paths.root.mkdir(exist_ok=True)
    write_outcome(paths, outcome)
    assert store.attempts.finish(job_id, attempt, outcome)


@pytest.fixture
def model_of(store, settings, file_of):
    """Have a tuning run make a model; returns its name."""

    def model_of(client, **options):
        made = {"model": "tiny", "training_file": file_of(client, **options)}
        job = client.post(JOBS, json=made, **options).json()
        end(store, settings, job["id"], JobOutcome(digest="d", bytes=1))
        return client.get(f"{JOBS}/{job['id']}", **options).json()["fine_tuned_model"]

    return model_of


def test_a_comparison_is_one_job_that_openais_list_leaves_out(serve, file_of):
    with serve() as client:
        rows, held = file_of(client), file_of(client, PAIR * 2)
        made = client.post(COMPARISONS, json=body(rows, validation_file=held, seeds=[0, 1])).json()
        assert (made["kind"], made["suffix"], made["status"]) == ("compare", "quiz", "queued")
        comparison = made["comparison"]
        assert comparison["methods"] == ["lora", "dora"]
        assert (comparison["seeds"], comparison["held_out"]) == ([0, 1], None)
        assert comparison["entries"][0]["rank"] == 4
        assert client.woken
        assert client.get(JOBS).json()["data"] == []
        assert [job["id"] for job in client.get(f"{JOBS}?kind=all").json()["data"]] == [made["id"]]
        assert client.get(f"{JOBS}?kind=compare").json()["data"] == [made]
        assert client.get(f"{JOBS}?kind=other").status_code == 400
        told = client.get(f"{JOBS}/{made['id']}/events").json()["data"]
        assert told[-1]["message"] == f"Created comparison: {made['id']}"
        assert client.get(f"{JOBS}/{made['id']}/checkpoints").json()["data"] == []
        assert client.post(f"{JOBS}/{made['id']}/pause").json()["status"] == "paused"


class Oracle:
    """Says what a run would take, and of one method that it cannot be."""

    def __init__(self):
        self.asked = []

    def ask(self, model, run, rows):
        self.asked.append((run["method"], run["data"], list(rows)))
        if run["method"] == "bitfit":
            raise JobError("the model has no biases", code="invalid_value")
        memory = {"lora": 2, "dora": 3}[run["method"]] * 2**30
        return {
            "rows": 9, "tokens": 90, "device": "cpu", "steps": 6, "memory": memory, "disk": 100,
            "memory_parts": {"process": 1}, "adapter_bytes": 10, "seconds": 5.0,
        }  # fmt: skip


def test_a_comparison_is_estimated_as_a_whole_and_asks_once_for_each_method(serve, file_of):
    oracle = Oracle()
    with serve(estimator=oracle) as client:
        wanted = body(file_of(client), seeds=[0, 1])
        for _ in range(2):
            found = client.post(f"{COMPARISONS}?dry_run=true", json=wanted).json()
        assert found["object"] == "comparison.estimate"
        whole = found["estimate"]
        assert (whole["steps"], whole["seconds"]) == (24, 20.0)
        assert 3 * 2**30 < whole["memory_bytes"] == whole["memory"] < 4 * 2**30
        assert oracle.asked == [(m, "data/all.jsonl", ["data/all.jsonl"]) for m in ("lora", "dora")]
        assert client.get(f"{JOBS}?kind=all").json()["data"] == []
        assert client.post(COMPARISONS, json=wanted).json()["estimate"]["seconds"] == 20.0
        unlike = client.post(COMPARISONS, json=wanted | {"budget": ["steps=3"]}).json()
        assert unlike["estimate"] is None


def test_a_method_that_cannot_be_is_named_in_the_estimate(serve, file_of):
    with serve(estimator=Oracle()) as client:
        wanted = body(file_of(client), methods=[*METHODS, {"method": "bitfit"}])
        whole = client.post(f"{COMPARISONS}?dry_run=true", json=wanted).json()["estimate"]
        assert whole["problems"] == {"bitfit": "the model has no biases"}
        assert whole["steps"] == 12
        alone = client.post(
            f"{COMPARISONS}?dry_run=true", json=wanted | {"methods": [{"method": "bitfit"}]}
        )
        assert alone.status_code == 400
        assert alone.json()["error"]["message"] == "the model has no biases"


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"methods": [{"method": "lorra"}]}, "methods", "unknown method 'lorra'"),
        ({"methods": [{"method": "lora", "rnk": 1}]}, "methods", "did you mean 'rank'"),
        ({"methods": []}, "methods", "at least 1"),
        ({"methods": METHODS[:1] * 2}, None, "is the same as"),
        ({"held_out": 1.5}, "held_out", "a share below 1 or a whole number"),
        ({"budget": ["stepz=1"]}, None, "did you mean 'steps'"),
        ({"training": {"device": "cuda"}}, "training.device", "the server chooses it"),
        ({"training": {"eval_every": 5}}, None, "a comparison sets it itself"),
        ({"evaluation": {"scor": "loss"}}, "evaluation.scor", "did you mean 'score'"),
        ({"suffix": "x" * 41}, "suffix", "more than 40 characters"),
        ({"seeds": [1, 1]}, None, "a seed is given twice"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_with_the_reason(
    serve, file_of, change, param, words
):
    with serve() as client:
        answer = client.post(COMPARISONS, json=body(file_of(client), **change))
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error["param"] == param
        assert words in error["message"]
        assert client.get(f"{JOBS}?kind=all").json()["data"] == []


def test_a_comparison_is_shown_run_by_run_as_far_as_it_is(serve, file_of, store, settings):
    with serve() as client:
        job = client.post(COMPARISONS, json=body(file_of(client))).json()
        output = settings.folder.job(job["id"]).run / "comparison"
        for name, content in (
            ("base", {"evaluation": {"loss": 3.0}}),
            ("lora-rank-4-seed0", FIGURES),
        ):
            (output / "jobs" / name).mkdir(parents=True)
            write_whole(output / "jobs" / name / "outcome.json", json.dumps(content))
            taken = {"prompts": [{"prompt": "a", "expected": "b"}], "texts": [f"c of {name}"]}
            write_whole(output / "jobs" / name / "samples.json", json.dumps(taken))
        (output / "runs" / "lora-rank-4-seed0").mkdir(parents=True)
        line = {"step": 1, "loss": 2.5, "seconds": 0.1, "tokens": 9, "grad_norm": 1.0}
        write_whole(
            output / "runs" / "lora-rank-4-seed0" / "metrics.jsonl", json.dumps(line) + '\n{"st'
        )
        samples = client.get(f"{JOBS}/{job['id']}/samples").json()
        assert samples["prompts"] == [{"prompt": "a", "expected": "b"}]
        assert [(each["run"], each["texts"]) for each in samples["answers"]] == [
            (None, ["c of base"]),
            ("lora-rank-4-seed0", ["c of lora-rank-4-seed0"]),
        ]
        found = client.get(f"{COMPARISONS}/{job['id']}").json()
        lora, dora = found["runs"]
        assert found["base"] == {"loss": 3.0}
        assert (lora["status"], dora["status"]) == ("succeeded", "queued")
        assert lora["lines"] == [{"step": 1, "loss": 2.5, "tokens": 9, "seconds": 0.1}]
        assert lora["figures"]["evaluation"] == {"loss": 1.5}
        assert (lora["model"], dora["figures"], dora["lines"]) == (None, None, [])
        name = f"ft:tiny:default:quiz-lora:{'a' * 8}"
        place = model_place(job["id"], name)
        outcome = JobOutcome(
            models=(OutcomeModel(name=name, digest="d", bytes=1, folder=place),),
            result={"models": {"lora-rank-4-seed0": name}},
        )
        end(store, settings, job["id"], outcome)
        found = client.get(f"{COMPARISONS}/{job['id']}").json()
        assert [run["model"] for run in found["runs"]] == [name, None]
        shown = client.get(f"{JOBS}/{job['id']}").json()
        assert shown["fine_tuned_model"] is None
        assert shown["result"] == {"models": {"lora-rank-4-seed0": name}}
        assert [model.name for model in store.models.of_job(job["id"])] == [name]


FIGURES = {
    **dict.fromkeys(("trainable", "steps", "tokens", "seconds", "peak_memory"), 1),
    "learning_rate": 1e-3,
    "evaluation": {"loss": 1.5},
}


def test_an_export_is_a_job_that_cannot_be_paused(serve, model_of):
    with serve() as client:
        name = model_of(client)
        job = client.post(EXPORTS, json={"model": name}).json()
        assert (job["kind"], job["target"], job["status"]) == ("export", name, "queued")
        assert job["fine_tuned_model"] is None
        refused = client.post(f"{JOBS}/{job['id']}/pause").json()["error"]
        assert refused["code"] == "wrong_state"
        assert "no step to stop at" in refused["message"]
        assert client.post(f"{JOBS}/{job['id']}/cancel").json()["status"] == "cancelled"
        assert client.get(f"{COMPARISONS}/{job['id']}").json()["error"]["code"] == "wrong_state"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "ft:tiny:default::abcdefgh"}, 404, "there is no model"),
        ({"format": "gguf"}, 400, "'merged' or 'lora'"),
        ({"rank": 4}, 400, "rank is for format 'lora'"),
    ],
)
def test_an_export_that_cannot_be_is_refused(serve, model_of, fields, status, words):
    with serve() as client:
        answer = client.post(EXPORTS, json={"model": model_of(client), **fields})
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]


def test_an_export_is_sent_as_an_archive_and_removed(serve, model_of, store, settings):
    with serve() as client:
        job = client.post(EXPORTS, json={"model": model_of(client)}).json()
        content = f"{EXPORTS}/{job['id']}/content"
        assert client.get(content).json()["error"]["code"] == "export_not_found"
        folder = settings.folder.export(job["id"]) / "pirate-merged"
        folder.mkdir(parents=True)
        weights = random.Random(0).randbytes(3_000_000)
        (folder / "model.safetensors").write_bytes(weights)
        here = {"base_model_name_or_path": str(Path(settings.data_dir) / "model")}
        (folder / "adapter_config.json").write_text(json.dumps(here))
        facts = {"name": "pirate-merged", "bytes": 3_000_000, "what": "merged model"}
        end(store, settings, job["id"], JobOutcome(result={"export": facts}))
        answer = client.get(content)
        assert answer.headers["content-disposition"] == 'attachment; filename="pirate-merged.zip"'
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert len(archive.namelist()) == 2
            assert archive.read("pirate-merged/model.safetensors") == weights
            config = json.loads(archive.read("pirate-merged/adapter_config.json"))
            assert config == {"base_model_name_or_path": "tiny"}, "no path of this machine"
        shown = client.get(f"{JOBS}/{job['id']}").json()
        assert shown["result"] == {"export": {**facts, "is_there": True}}
        assert client.delete(f"{EXPORTS}/{job['id']}").json()["deleted"] is True
        assert not settings.folder.export(job["id"]).exists()
        assert client.get(content).status_code == 404
        shown = client.get(f"{JOBS}/{job['id']}").json()
        assert shown["result"]["export"]["is_there"] is False


def test_the_command_asks_for_both_and_lists_what_they_are(
    serve, model_of, store, settings, capsys
):
    with serve() as client:
        name, url = model_of(client), ("--url", str(client.base_url))
        assert main(["jobs", "verify", name, *url]) == 0
        proof = capsys.readouterr().out.strip()
        assert main(["jobs", "export", name, "--format", "lora", "--rank", "2", *url]) == 0
        export = capsys.readouterr().out.strip()
        shown = client.get(f"{JOBS}/{export}").json()
        assert (shown["kind"], shown["format"], shown["target"]) == ("export", "lora", name)
        outcome = JobOutcome(result={"passed": True, "words": "All.", "verdicts": []})
        end(store, settings, proof, outcome)
        assert main(["jobs", "list", *url]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert lines[proof].split()[1:3] == ["succeeded", "verify"]
        assert "as trained" in lines[proof]
        assert lines[export].split()[2] == "export"
        assert main(["jobs", "verify", "ft:tiny:default::zzzzzzzz", *url]) == 1
        assert "there is no model" in capsys.readouterr().err


def test_what_is_anothers_can_be_neither_compared_nor_exported(serve, keys, model_of, file_of):
    alice, bob = keys("alice", "--train"), keys("bob", "--train")
    with serve(keys=keys.path) as client:
        hers = {"headers": {"Authorization": f"Bearer {alice}"}}
        his = {"headers": {"Authorization": f"Bearer {bob}"}}
        client.headers.update(hers["headers"])
        rows, name = file_of(client), model_of(client)
        job = client.post(COMPARISONS, json=body(rows)).json()
        assert job["organization_id"] == "alice"
        for method, path, options in (
            ("GET", f"{COMPARISONS}/{job['id']}", {}),
            ("POST", COMPARISONS, {"json": body(rows)}),
            ("POST", EXPORTS, {"json": {"model": name}}),
            ("POST", "/studio/api/verifications", {"json": {"model": name}}),
            ("GET", f"{EXPORTS}/{job['id']}/content", {}),
            ("DELETE", f"{EXPORTS}/{job['id']}", {}),
        ):
            assert client.request(method, path, **options, **his).status_code == 404, path
