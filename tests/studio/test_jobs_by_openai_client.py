"""OpenAI's own client from rows to an answer of the tuned model, with its plain arguments."""

import json
import time
from contextlib import contextmanager

import pytest
import torch
from engine_case import start
from live_server import live
from open_store import open_store
from openai import BadRequestError, NotFoundError, OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import gossamer.tuners  # noqa: F401  PEFT then knows the adapters of all methods
from gossamer.cli.main import main
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.supervise.launch import ProcessLauncher
from gossamer.jobs.supervise.supervisor import Supervisor
from gossamer.studio.assembly import StudioParts
from gossamer.studio.new_job import BaseModel

pytestmark = pytest.mark.slow

PATIENCE = 300
METHODS = {
    "lora": ({"rank": 4, "target_modules": ["q_proj", "v_proj"]}, 0.03),
    "dora": ({"rank": 4}, 0.03),
    "smt": ({"attention_ratio": 0.05, "probe_batches": 2}, 0.02),
    "ia3": ({}, 1.0),
    "loreft": ({"rank": 2}, 0.1),
    "prefix_tuning": ({"tokens": 4}, 0.3),
}
"""Settings of methods, and learning rates at which a few steps change what the tiny model says."""
QUESTION = [{"role": "user", "content": "What is 3 + 1?"}]


def rows(count, first=0):
    return b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {n} + 1?"},
                    {"role": "assistant", "content": f"It is {n + 1}."},
                ]
            }
        ).encode()
        + b"\n"
        for n in range(first, first + count)
    )


@pytest.fixture
def serve(tiny_model, tmp_path, capsys):
    """A whole server on the tiny model; `with serve() as (client, settings)`."""

    @contextmanager
    def serve():
        keys = tmp_path / "keys.yaml"
        main(["keys", "add", "alice", "--train", "--file", str(keys)])
        key = capsys.readouterr().out.strip()
        settings = JobsSettings(
            data_dir=str(tmp_path / "data"),
            heartbeat_seconds=0.5,
            lease_seconds=30.0,
            disk_floor_mib=1,
            jobs_share="full",
        )
        store = open_store(settings)
        workers, start_worker = [], ProcessLauncher(settings)

        def launch(job, attempt):
            workers.append(start_worker(job, attempt))
            return workers[-1]

        engine = start(tiny_model, (settings.folder.served,))
        parts = StudioParts(
            settings,
            BaseModel(engine.model_name, str(tiny_model), lambda: 64),
            store=store,
            runner=Supervisor(store, settings, launch),
        )
        with live(engine, [parts.api()], keys=keys) as (host, port):
            yield OpenAI(base_url=f"http://{host}:{port}/v1", api_key=key), settings
        store.close()
        # A worker whose job has ended may still be on its way out.
        for worker in workers:
            worker.wait(PATIENCE)

    return serve


def wait(client, job_id, *statuses):
    deadline = time.monotonic() + PATIENCE
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in statuses:
        events = client.fine_tuning.jobs.list_events(job_id, limit=5).data
        assert job.status != "failed", job.error
        assert time.monotonic() < deadline, (job.status, [event.message for event in events])
        time.sleep(0.05)
    return job


def reference(model, adapter):
    """What PEFT answers greedily."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter
    ).eval()
    ids = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = tuned.generate(**ids, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(out[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)


def answer(client, model):
    reply = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=12, temperature=0
    )
    return reply.choices[0].message.content


def test_from_rows_to_an_answer(serve, tiny_model):
    with serve() as (client, settings):
        file = client.files.create(file=("rows.jsonl", rows(24)), purpose="fine-tune")
        held = client.files.create(file=("held.jsonl", rows(4, 50)), purpose="fine-tune")
        for each in (file, held):
            done = client.files.wait_for_processing(each.id, poll_interval=0.1)
            assert (done.status, done.status_details) == ("processed", None)
        model = client.models.list().data[0].id
        job = client.fine_tuning.jobs.create(
            model=model,
            training_file=file.id,
            validation_file=held.id,
            suffix="pirate",
            seed=0,
            method={
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {
                        "n_epochs": 4,
                        "batch_size": 8,
                        "learning_rate_multiplier": 3,
                    }
                },
            },
        )
        assert [each.id for each in client.fine_tuning.jobs.list(limit=2)] == [job.id]
        job = wait(client, job.id, "succeeded")
        name = job.fine_tuned_model
        started = time.monotonic()
        text = answer(client, name)
        assert time.monotonic() - started < 30
        assert name.startswith(f"ft:{model}:alice:pirate:")
        assert text == reference(tiny_model, settings.folder.link(name))
        assert text != answer(client, model)
        assert job.trained_tokens > 0
        assert job.progress["step"] == job.progress["steps"] == 12
        assert job.hyperparameters.n_epochs == 4

        events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
        assert len({event.id for event in events}) == len(events)
        told = [event.message for event in events[::-1]]
        assert told[0] == f"Created fine-tuning job: {job.id}"
        assert told[-1] == "The job has successfully completed"
        assert f"New fine-tuned model created: {name}" in told
        assert [m for m in told if "training loss" in m][-1].startswith("Step 12/12: ")
        losses = [event.data for event in events if event.type == "metrics"]
        assert {line["step"] for line in losses if "train_loss" in line} == set(range(1, 13))
        assert any("full_valid_loss" in line for line in losses)
        checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
        assert checkpoints[0].fine_tuned_model_checkpoint == name
        assert checkpoints[0].metrics.full_valid_loss > 0

        table = client.files.content(job.result_files[0]).text.splitlines()
        assert table[0].startswith("step,train_loss,valid_loss")
        assert len(table) >= 13
        assert client.models.delete(name).deleted
        with pytest.raises(NotFoundError):
            answer(client, name)
        assert name not in [each.id for each in client.models.list()]
        for each in (file, held):
            assert client.files.delete(each.id).deleted


def test_pause_resume_and_cancel(serve):
    with serve() as (client, _):
        file = client.files.create(file=("rows.jsonl", rows(24)), purpose="fine-tune")
        client.files.wait_for_processing(file.id, poll_interval=0.1)
        model = client.models.list().data[0].id
        long = {
            "model": model,
            "training_file": file.id,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 4000, "batch_size": 8}},
            },
            "extra_body": {"adapter": {"method": "dora", "rank": 4}},
        }
        first = client.fine_tuning.jobs.create(**long)
        second = client.fine_tuning.jobs.create(**{**long, "suffix": "second"})
        assert (first.adapter["method"], first.adapter["rank"]) == ("dora", 4)
        wait(client, first.id, "running")
        while not client.fine_tuning.jobs.retrieve(first.id).progress["step"]:
            time.sleep(0.1)
        client.fine_tuning.jobs.pause(first.id)
        paused = wait(client, first.id, "paused")
        assert paused.progress["step"] > 0
        with pytest.raises(BadRequestError) as caught:
            client.files.delete(file.id)
        assert caught.value.code == "file_in_use"
        assert client.fine_tuning.jobs.cancel(second.id).status in ("cancelled", "running")
        wait(client, second.id, "cancelled")
        assert client.fine_tuning.jobs.resume(first.id).status in ("queued", "running")
        while (
            client.fine_tuning.jobs.retrieve(first.id).progress["step"] <= paused.progress["step"]
        ):
            time.sleep(0.1)
        client.fine_tuning.jobs.cancel(first.id)
        wait(client, first.id, "cancelled")
        told = [event.message for event in client.fine_tuning.jobs.list_events(first.id, limit=50)]
        assert any(message.startswith("Paused at step ") for message in told)
        assert any(message.startswith("Resumed from step ") for message in told)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_chosen_beside_openais_arguments_and_answers_as_in_peft(
    serve, tiny_model, method
):
    settings, learning_rate = METHODS[method]
    with serve() as (client, jobs):
        file = client.files.create(file=("rows.jsonl", rows(24)), purpose="fine-tune")
        client.files.wait_for_processing(file.id, poll_interval=0.1)
        model = client.models.list().data[0].id
        job = client.fine_tuning.jobs.create(
            model=model,
            training_file=file.id,
            suffix="mine",
            extra_body={
                "adapter": {"method": method, **settings},
                "training": {"learning_rate": learning_rate, "max_steps": 12},
            },
        )
        assert job.adapter.items() >= {"method": method, **settings}.items()
        assert job.training["learning_rate"] == learning_rate
        name = wait(client, job.id, "succeeded").fine_tuned_model
        text = answer(client, name)
        assert text == reference(tiny_model, jobs.folder.link(name))
        assert text != answer(client, model)
