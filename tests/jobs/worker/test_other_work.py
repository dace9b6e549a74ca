"""The process of a job that is no tuning run of a servable method: exports, proofs, comparisons."""

import json
import os
import signal

import pytest
from job_helpers import messages
from kills_case import is_alive, until
from open_store import open_store
from worker_case import FAR, add_rows, add_training, quick_settings, supervise

from gossamer.jobs.kinds.compare import parse_comparison, resolve_comparison
from gossamer.jobs.kinds.export import ExportRequest, resolve_export
from gossamer.jobs.kinds.verify import VerificationRequest, resolve_verification
from gossamer.jobs.outcome import read_outcome
from gossamer.jobs.store.attempts import Death
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.jobs.store.scoped import EVERYONE


class Shop:
    """A store, and workers that are started by hand."""

    def __init__(self, nursery, folder):
        self.settings = quick_settings(folder)
        self.store = open_store(self.settings)
        self.nursery, self.folder = nursery, folder
        supervise(self.store)

    def add(self, kind, resolved, name="x", file=""):
        new = NewJob(
            tenant="a",
            kind=kind,
            model="tiny",
            training_file=file,
            name=name,
            seed=0,
            request={},
            request_sha256="0" * 64,
            resolved={kind: resolved},
            metadata={},
            max_waiting=100,
        )
        job = self.store.jobs.create(new, Repeat())[0]
        self.paths(job).root.mkdir()
        return job

    def tuned(self, **changes):
        job = add_training(self.store, self.settings, self.nursery.model, self.folder, **changes)
        return self.work(job)

    def start(self, job):
        attempt = self.store.attempts.begin(job.id, "owner", lease_until=FAR)
        return self.nursery.zygote.with_settings(self.settings)(self.paths(job), attempt).pid

    def work(self, job):
        pid = self.start(job)
        until(lambda: not is_alive(pid), seconds=900)
        return self.store.jobs.get(EVERYONE, job.id)

    def paths(self, job):
        return self.settings.folder.job(job.id)

    def log(self, job):
        return self.paths(job).log.read_text()[-3000:]


@pytest.fixture(scope="module")
def shop(nursery, tmp_path_factory):
    shop = Shop(nursery, tmp_path_factory.mktemp("shop"))
    yield shop
    shop.store.close()


@pytest.fixture(scope="module")
def pirate(shop):
    """A result that is served."""
    return shop.tuned(max_steps=2, eval_every=2)


@pytest.mark.parametrize(
    ("form", "file", "what"),
    [
        ("merged", "config.json", "merged model"),
        ("lora", "adapter_config.json", "LoRA adapter"),
    ],
)
def test_a_result_is_exported_as_the_command_does_it(shop, pirate, form, file, what):
    request = ExportRequest(model=pirate.name, format=form)
    resolved = resolve_export(request, base=str(shop.nursery.model), model=pirate.name)
    job = shop.work(shop.add("export", resolved, pirate.name))
    assert job.status == "succeeded", shop.log(job)
    found = read_outcome(shop.paths(job)).result["export"]
    folder = shop.settings.folder.export(job.id) / found["name"]
    assert found["name"] == f"tiny-{form}"
    assert found["what"] == what
    assert (folder / file).is_file()
    assert found["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == [found["name"]]
    assert shop.store.models.of_job(job.id) == []
    assert "Export started" in messages(shop.store, job)


def test_a_result_is_proved_and_told_of_in_words(shop, pirate):
    request = VerificationRequest(model=pirate.name, new_tokens=4, prompts=["Hi", "One two"])
    resolved = resolve_verification(request, base=str(shop.nursery.model), model=pirate.name)
    job = shop.work(shop.add("verify", resolved, pirate.name))
    assert job.status == "succeeded", shop.log(job)
    found = read_outcome(shop.paths(job)).result
    assert found["passed"] is True
    assert "The result: all 8 tokens are those of PEFT" in found["words"]
    assert "The result: all 8 tokens are those of the merged model" in found["words"]
    assert {each["reference"] for each in found["verdicts"]} == {"transformers", "merged", "PEFT"}
    assert found["words"] in messages(shop.store, job)


def test_what_cannot_be_exported_is_said_in_the_commands_words(shop, pirate):
    request = ExportRequest(model="x")
    resolved = resolve_export(request, base=str(shop.nursery.model), model="x")
    job = shop.work(shop.add("export", resolved))
    assert job.status == "failed"
    assert job.error["message"] == "there is no model 'x'"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"method": "full"}, "whole model"),
        # What the result is, is up to the settings of the method.
        ({"method": "slora", "adapter": {"keep_residual": True}}, "adapter for PEFT"),
    ],
)
def test_a_run_whose_result_is_not_served_ends_in_an_export(shop, values, what):
    job = shop.tuned(**values, max_steps=2, eval_every=2)
    assert job.status == "succeeded", shop.log(job)
    assert shop.store.models.of_job(job.id) == []
    assert not shop.settings.folder.link(job.name).is_symlink()
    found = read_outcome(shop.paths(job)).result["export"]
    folder = shop.settings.folder.export(job.id) / found["name"]
    assert found["what"] == what
    weights = "adapter_model.safetensors" if "adapter" in what else "model.safetensors"
    assert (folder / weights).samefile(shop.paths(job).run / weights)
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_comparison_that_is_killed_and_stopped_ends_as_one_that_is_not(shop):
    file = add_rows(shop.store, shop.settings, shop.folder)
    body = {
        "model": "tiny",
        "training_file": file.id,
        "suffix": "quiz",
        "methods": [
            {"method": "lora", "rank": 2},
            {"method": "full"},
            # The model has no biases.
            {"method": "bitfit"},
        ],
        "held_out": 4,
        "budget": ["steps=6"],
        "training": {"batch_size": 2, "save_every": 2, "dtype": "float32", "max_length": 64},
        "evaluation": {"score": "loss"},
    }
    resolved = resolve_comparison(
        parse_comparison(body),
        base=str(shop.nursery.model),
        tenant="a",
        name="tiny",
        endings=(".jsonl", ".jsonl"),
    )
    job = shop.add("compare", resolved, "quiz", file.id)
    metrics = shop.paths(job).run / "metrics.jsonl"
    for number in (signal.SIGKILL, signal.SIGTERM):
        pid = shop.start(job)
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        until(
            lambda n=before: metrics.exists() and len(metrics.read_text().split("\n")) > n + 2,
            seconds=900,
        )
        os.kill(pid, number)
        until(lambda gone=pid: not is_alive(gone), seconds=900)
        if number == signal.SIGKILL:
            death = Death(step=0, cause="the worker was killed", counts=True)
            shop.store.attempts.died(job.id, 1, "owner", death, max_deaths=9)
        assert shop.store.jobs.get(EVERYONE, job.id).status == "queued"
    row = shop.work(job)
    assert row.status == "succeeded", shop.log(job)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines][:12] == list(range(1, 13))
    assert row.steps == 18
    (model,) = shop.store.models.of_job(job.id)
    assert model.name == resolved["names"]["lora-rank-2-seed0"]
    assert (
        shop.settings.folder.link(model.name).resolve()
        == (shop.paths(job).models / model.name).resolve()
    )
    outcome = read_outcome(shop.paths(job))
    assert outcome.result == {"models": {"lora-rank-2-seed0": model.name}}
    said = messages(shop.store, job)
    assert said.count("Comparison started") == 1
    assert any(each.startswith("lora:rank=2: held-out loss") for each in said)
    assert any(each.startswith("bitfit: failed: ") for each in said)
