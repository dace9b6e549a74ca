"""Events of jobs as a stream that goes on where it broke off."""

import json
import threading
import time

import pytest
from job_case import JOBS, create


def read_events(client, job_id, count, since=None):
    """The next `count` events of the stream, each with its place."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": since} if since else {})}
    found, place = [], None
    with client.stream("GET", f"{JOBS}/{job_id}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        for line in response.iter_lines():
            if line.startswith("id: "):
                place = line.removeprefix("id: ")
            elif line.startswith("data: "):
                found.append((place, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                return found
    return found


def write_steps(settings, job_id, numbers):
    run = settings.folder.job(job_id).run
    run.mkdir(parents=True, exist_ok=True)
    with (run / "metrics.jsonl").open("a") as file:
        for number in numbers:
            line = {"step": number, "loss": 1.0, "seconds": 0.1, "time": time.time()}
            file.write(json.dumps(line) + "\n")


def test_events_stream_the_oldest_first_and_go_on_from_the_last_one_seen(serve, file_of, settings):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        write_steps(settings, job, [1, 2])
        first = read_events(client, job, 3)
        assert [event["message"].split(":")[0] for _, event in first] == [
            "Created fine-tuning job",
            "Validating training file",
            "Files validated, moving job to queued state",
        ]
        rest = read_events(client, job, 2, since=first[-1][0])
        assert [event["data"]["step"] for _, event in rest] == [1, 2]
        client.post(f"{JOBS}/{job}/cancel")
        write_steps(settings, job, [3])
        ended = read_events(client, job, 99, since=rest[0][0])
        assert [event["data"].get("step") for _, event in ended] == [2, None, 3]
        headers = {"Accept": "text/event-stream", "Last-Event-ID": ended[-1][0]}
        seen = client.get(f"{JOBS}/{job}/events", headers=headers)
        assert (seen.status_code, seen.content) == (204, b"")
        everything = read_events(client, job, 99, since="nonsense")
        paged = client.get(f"{JOBS}/{job}/events?limit=50").json()["data"]
        assert [event for _, event in everything] == paged[::-1]


@pytest.mark.slow
def test_ten_thousand_events_are_listed_by_pages_without_a_gap_while_more_come(
    serve, file_of, settings
):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        write_steps(settings, job, range(1, 10_001))
        seen, after = [], {}
        while True:
            params = {"limit": 500, **after}
            page = client.get(f"{JOBS}/{job}/events", params=params).json()
            seen += page["data"]
            # What happens meanwhile is newer than all that is still to be listed.
            write_steps(settings, job, [10_001 + len(seen)])
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        steps = [event["data"]["step"] for event in seen if event["type"] == "metrics"]
        assert steps == list(range(10_000, 0, -1))
        assert len({event["id"] for event in seen}) == len(seen) == 10_003


def test_a_stream_tells_what_happens_meanwhile(serve, file_of, settings):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        timer = threading.Timer(0.3, write_steps, (settings, job, [1]))
        timer.start()
        events = read_events(client, job, 4)
        timer.join()
        assert events[-1][1]["data"]["step"] == 1
