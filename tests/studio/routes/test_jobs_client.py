"""`gossamer jobs` against a server: lists, shows, follows and stops."""

import json

import pytest

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


def test_a_server_without_jobs_and_a_wrong_key_are_told(command, serve, keys, make_plain_server):
    with make_plain_server() as client:
        code, _, error = command(client, "list")
        assert (code, "without --jobs" in error) == (1, True)
    keys("alice", "--train")
    with serve(keys=keys.path) as client:
        code, _, error = command(client, "list", "--api-key", "wrong")
        assert (code, "API key" in error) == (1, True)
