"""The samples and the log of a job, for those who may see them."""

import json

from job_case import JOBS, create

from gossamer.jobs.run_files import _TAIL_BYTES as TAIL

SAMPLES = {
    "prompts": [{"prompt": "a", "expected": "b"}],
    "answers": [{"step": 0, "texts": ["c"], "seconds": 0.1}],
}


def test_samples_are_shown_as_far_as_they_are(serve, file_of, settings):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        empty = client.get(f"{JOBS}/{job}/samples").json()
        assert empty == {"object": "fine_tuning.job.samples", "prompts": [], "answers": []}
        run = settings.folder.job(job).run
        run.mkdir(parents=True)
        (run / "samples.json").write_text(json.dumps(SAMPLES))
        assert client.get(f"{JOBS}/{job}/samples").json() == {**empty, **SAMPLES}
        assert client.get(f"{JOBS}/ftjob-none/samples").status_code == 404


def test_the_end_of_the_log_is_for_administrators(serve, file_of, settings, keys):
    owner, admin = keys("owner", "--train"), keys("root", "--admin")
    with serve(key=owner, keys=keys.path) as client:
        job = create(client, file_of(client)).json()["id"]
        path, headers = f"{JOBS}/{job}/log", {"Authorization": f"Bearer {admin}"}
        assert client.get(path).status_code == 404
        found = client.get(path, headers=headers).json()
        assert (found["text"], found["is_whole"]) == ("", True)
        place = settings.folder.job(job)
        place.root.mkdir(parents=True, exist_ok=True)
        place.log.write_bytes(b"first\n" + b"x" * TAIL + "\nlöst\n".encode() + b"\xff last\n")
        found = client.get(path, headers=headers).json()
        assert found["text"] == "löst\n� last\n"
        assert not found["is_whole"]


def test_events_of_a_job_without_its_steps(serve, file_of, settings):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        run = settings.folder.job(job).run
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "seconds": 0.1}\n')
        every = client.get(f"{JOBS}/{job}/events?limit=100").json()["data"]
        told = client.get(f"{JOBS}/{job}/events?limit=100&type=message").json()["data"]
        assert told == [event for event in every if event["type"] == "message"]
        assert len(told) == len(every) - 1
        assert client.get(f"{JOBS}/{job}/events?type=x").status_code == 400
