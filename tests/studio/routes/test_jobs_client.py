"""`gossamer jobs` against a server: lists, shows, follows and stops."""

import json
import threading
import time

import pytest
from job_case import PAIR

from gossamer.cli.main import main

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def command(capsys):
    def command(client, *arguments):
        code = main(["jobs", *arguments, "--url", str(client.base_url)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def add_job(client, send):
    file_id = send(client).json()["id"]
    body = {"model": "tiny", "training_file": file_id}
    return client.post(JOBS, json=body).json()["id"]


def test_jobs_are_listed_shown_and_stopped_by_the_end_of_their_name(serve, send, command):
    with serve() as client:
        one, two = add_job(client, send), add_job(client, send)
        code, out, _ = command(client, "list")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()[1:]] == [two, one]
        assert json.loads(command(client, "list", "--json", "--limit", "1")[1])[0]["id"] == two
        assert json.loads(command(client, "show", one[-6:])[1])["id"] == one
        assert command(client, "cancel", one[-6:])[1] == f"{one} cancelled\n"
        logs = command(client, "logs", one)[1]
        assert "Created fine-tuning job" in logs
        assert "The job was cancelled" in logs
        assert command(client, "logs", one, "--follow")[1] == logs
        code, _, error = command(client, "pause", one)
        assert (code, error.count("\n")) == (1, 1)
        assert "is cancelled; only" in error
        code, _, error = command(client, "show", "nothing")
        assert code == 2
        assert "unknown job 'nothing'" in error


def cancel_the_next(client, known):
    """Wait for a job beside the known one, and cancel it."""
    while len(found := client.get(JOBS).json()["data"]) < 2:
        time.sleep(0.05)
    (new,) = [job["id"] for job in found if job["id"] != known]
    client.post(f"{JOBS}/{new}/cancel")


def test_a_job_is_made_of_a_file(serve, command, tmp_path):
    rows, held = tmp_path / "rows.jsonl", tmp_path / "held.jsonl"
    rows.write_bytes(PAIR * 12 + b"oops\n")
    held.write_bytes(PAIR * 2)
    options = ["--method", "dora", "--set", "rank=4", "--train", "max_steps=7", "--name", "mine"]
    options += ["--train", "skip_bad_rows=true", "--held-out", str(held), "--seed", "3"]
    with serve() as client:
        code, out, error = command(client, "create", str(rows), *options)
        assert code == 0, error
        assert "1 of 13 rows cannot be used; the first is line 13" in error
        job = client.get(f"{JOBS}/{out.strip()}").json()
        assert (job["suffix"], job["seed"], job["model"]) == ("mine", 3, "tiny")
        assert (job["adapter"]["method"], job["adapter"]["rank"]) == ("dora", 4)
        assert job["training"]["max_steps"] == 7
        assert job["validation_file"]
        cancelling = threading.Thread(target=cancel_the_next, args=(client, job["id"]))
        cancelling.start()
        code, out, _ = command(client, "create", str(held), "--follow")
        cancelling.join()
        assert (code, "The job was cancelled" in out) == (1, True)
        code, _, error = command(client, "create", str(rows), "--set", "rnak=4")
        assert (code, error.count("\n")) == (1, 2)
        assert "rnak" in error
        code, _, error = command(client, "create", str(tmp_path / "none.jsonl"))
        assert (code, "No such file" in error) == (1, True)
        held.write_bytes(b"oops\n")
        code, _, error = command(client, "create", str(held))
        assert (code, "cannot be used: " in error, "line 1: invalid JSON" in error) == (
            1,
            True,
            True,
        )


def test_a_server_without_jobs_and_a_wrong_key_are_told(command, serve, keys, make_plain_server):
    with make_plain_server() as client:
        code, _, error = command(client, "list")
        assert (code, "without --jobs" in error) == (1, True)
    keys("alice", "--train")
    with serve(keys=keys.path) as client:
        code, _, error = command(client, "list", "--api-key", "wrong")
        assert (code, "API key" in error) == (1, True)
