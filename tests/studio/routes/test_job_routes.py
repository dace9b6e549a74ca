"""Jobs over HTTP, without anyone who runs them: OpenAI's objects, repeats, states, refusals."""

import json
import random

from job_case import JOBS, PAIR, create

from gossamer.errors import JobError


def test_a_job_shows_all_that_openai_requires_and_what_it_means(serve, file_of):
    with serve() as client:
        rows, held = file_of(client), file_of(client, PAIR * 2)
        job = create(
            client,
            rows,
            validation_file=held,
            suffix="pirate",
            seed=7,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            adapter={"method": "dora", "rank": 4},
            training={"max_length": 64},
            metadata={"team": "a"},
        ).json()
        assert job["id"].startswith("ftjob-")
        assert {**job, "created_at": 0} == {
            **job,
            "object": "fine_tuning.job",
            "created_at": 0,
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "model": "tiny",
            "organization_id": "default",
            "result_files": [],
            "seed": 7,
            "status": "queued",
            "trained_tokens": None,
            "training_file": rows,
            "validation_file": held,
            "metadata": {"team": "a"},
            "suffix": "pirate",
        }
        numbers = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.0}
        assert job["hyperparameters"] == numbers
        assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": numbers}}
        assert (job["adapter"]["method"], job["adapter"]["rank"]) == ("dora", 4)
        assert job["adapter"]["alpha"]
        assert (job["training"]["max_length"], job["training"]["epochs"]) == (64, 2)
        assert not {"data", "output", "model"} & job["training"].keys()
        assert job["progress"]["step"] == 0
        assert client.get(f"{JOBS}/{job['id']}").json() == job
        assert client.woken
        told = client.get(f"{JOBS}/{job['id']}/events").json()
        assert [event["message"] for event in told["data"]][::-1] == [
            f"Created fine-tuning job: {job['id']}",
            f"Validating training file: {rows}",
            f"Validating validation file: {held}",
            "Files validated, moving job to queued state",
        ]
        assert {event["object"] for event in told["data"]} == {"fine_tuning.job.event"}
        assert client.get(f"{JOBS}/{job['id']}/checkpoints").json()["data"] == []


def test_lists_are_paged_and_chosen_by_metadata(serve, file_of):
    with serve() as client:
        rows = file_of(client)
        ids = [create(client, rows, metadata={"n": str(n % 2)}).json()["id"] for n in range(5)]
        plain = create(client, rows).json()["id"]
        first = client.get(JOBS, params={"limit": 2}).json()
        assert ([job["id"] for job in first["data"]], first["has_more"]) == ([plain, ids[4]], True)
        rest = client.get(JOBS, params={"limit": 4, "after": ids[4]}).json()
        assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[3::-1], False)
        chosen = client.get(JOBS, params={"metadata[n]": "1"}).json()["data"]
        assert [job["id"] for job in chosen] == [ids[3], ids[1]]
        assert [j["id"] for j in client.get(f"{JOBS}?metadata=null").json()["data"]] == [plain]
        assert client.get(f"{JOBS}?metadata=x").status_code == 400
        assert client.get(f"{JOBS}?after=ftjob-x").json()["error"]["code"] == "job_not_found"
        events, after = [], {}
        while True:
            params = {"limit": 2, **after}
            page = client.get(f"{JOBS}/{plain}/events", params=params).json()
            events += [event["id"] for event in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert len(set(events)) == len(events) == 3


def test_a_request_that_is_sent_again_finds_its_job(serve, file_of):
    with serve() as client:
        rows = file_of(client)
        key = {"Idempotency-Key": "k1"}
        one = create(client, rows, headers=key).json()["id"]
        assert create(client, rows, headers=key).json()["id"] == one
        other = create(client, rows, seed=3, headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_mismatch")
        retry = {"x-stainless-retry-count": "1"}
        assert create(client, rows, headers=retry).json()["id"] == one
        assert create(client, rows, seed=4, headers=retry).json()["id"] != one
        fresh = create(client, rows, headers={"x-stainless-retry-count": "0"}).json()["id"]
        assert fresh != one
        wrong = create(client, rows, headers={"Idempotency-Key": "x" * 256})
        assert wrong.status_code == 400


def test_states_change_as_far_as_they_may_and_never_with_a_conflict(serve, file_of):
    with serve() as client:
        job = create(client, file_of(client)).json()["id"]
        empty = {"headers": {"Content-Type": "application/json"}, "content": b""}
        assert client.post(f"{JOBS}/{job}/pause", **empty).json()["status"] == "paused"
        assert client.post(f"{JOBS}/{job}/resume", **empty).json()["status"] == "queued"
        ended = client.post(f"{JOBS}/{job}/cancel", **empty).json()
        assert (ended["status"], ended["finished_at"] is not None) == ("cancelled", True)
        refused = client.post(f"{JOBS}/{job}/pause", **empty)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_state")
        assert client.post(f"{JOBS}/{job}/resume", **empty).json()["status"] == "queued"


def test_a_trial_says_what_a_job_would_be_and_makes_none(serve, file_of):
    with serve() as client:
        rows = file_of(client)
        body = {"model": "tiny", "training_file": rows, "training": {"batch_size": 4}}
        answer = client.post(f"{JOBS}?dry_run=true", json=body).json()
        assert answer["object"] == "fine_tuning.job.estimate"
        assert answer["estimate"] == {"rows": 12, "steps": 9}
        assert answer["adapter"]["method"] == "lora"
        assert client.get(JOBS).json()["data"] == []
        assert client.post(f"{JOBS}?dry_run=maybe", json=body).status_code == 400
        assert not client.woken


class Oracle:
    """Says what a run would take, and counts how often it is asked."""

    def __init__(self, error=None):
        self.asked = []
        self.error = error

    def ask(self, model, run, rows):
        self.asked.append((model, run["method"], dict(rows)))
        if self.error is not None:
            raise self.error
        found = {"rows": 12, "steps": 9, "tokens": 480, "memory": 2**30, "disk": 10}
        return {**found, "trainable": 77, "adapter_bytes": 308, "seconds": None}


def test_a_trial_asks_once_and_the_job_knows_the_answer(serve, file_of, store):
    oracle = Oracle()
    with serve(estimator=oracle) as client:
        rows = file_of(client)
        body = {"model": "tiny", "training_file": rows}
        for _ in range(2):
            answer = client.post(f"{JOBS}?dry_run=true", json=body).json()
            assert answer["estimate"]["memory_bytes"] == 2**30
            assert (answer["adapter"]["trainable"], answer["adapter"]["bytes"]) == (77, 308)
            assert "measured here yet" in answer["estimate"]["source"]
        assert [asked[:2] for asked in oracle.asked] == [("tiny", "lora")]
        assert list(oracle.asked[0][2]) == ["data/train.jsonl"]
        job = client.post(JOBS, json={**body, "seed": 5, "suffix": "x"}).json()
        assert (job["estimate"]["tokens"], job["adapter"]["trainable"]) == (480, 77)
        other = client.post(JOBS, json={**body, "adapter": {"rank": 2}}).json()
        assert (other["estimate"], "trainable" in other["adapter"]) == (None, False)


def test_what_the_run_would_refuse_the_trial_refuses(serve, file_of):
    error = JobError("too long", code="invalid_file", param="training_file")
    with serve(estimator=Oracle(error)) as client:
        body = {"model": "tiny", "training_file": file_of(client)}
        answer = client.post(f"{JOBS}?dry_run=true", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")


REFUSED = [
    ({}, 400, "training_file"),
    ({"training_file": 3}, 400, "training_file"),
    ({"training_file": "x"}, 400, "training_file"),
    ({"training_file": "../../etc/passwd"}, 400, "training_file"),
    ({"training_file": "file-" + "a" * 24}, 404, "training_file"),
    ({"validation_file": "file-" + "a" * 24}, 404, "validation_file"),
    ({"model": "gpt-4o-mini"}, 404, "model"),
    ({"model": "ft:tiny:default::abcdefgh"}, 400, "model"),
    ({"model": None}, 400, "model"),
    ({"suffix": "a b"}, 400, "suffix"),
    ({"suffix": "a:b"}, 400, "suffix"),
    ({"suffix": "x" * 65}, 400, "suffix"),
    ({"seed": -1}, 400, "seed"),
    ({"seed": "x"}, 400, "seed"),
    ({"method": {"type": "reinforcement"}}, 400, "method.type"),
    ({"method": []}, 400, "method"),
    ({"integrations": [{"type": "wandb"}]}, 400, "integrations"),
    ({"metadata": {"a": 1}}, 400, "metadata"),
    ({"metadata": {str(n): "x" for n in range(17)}}, 400, "metadata"),
    ({"metadata": {"a" * 65: "x"}}, 400, "metadata"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 1.5}}, 400, "hyperparameters.batch_size"),
    ({"hyperparameters": {"warmup": 1}}, 400, "hyperparameters.warmup"),
    ({"adapter": {"method": "lara"}}, 400, "adapter.method"),
    ({"adapter": {"rank": -1}}, 400, "adapter"),
    ({"adapter": {"rang": 1}}, 400, "adapter"),
    ({"training": {"learning_rat": 1}}, 400, "training"),
    ({"training": {"output": "/tmp/x"}}, 400, "training.output"),
    ({"training": {"data": "/etc/passwd"}}, 400, "training.data"),
    ({"training": {"start_from": "/etc"}}, 400, "training.start_from"),
    ({"training": {"report_to": ["wandb"]}}, 400, "training.report_to"),
    ({"colour": "red"}, 400, "colour"),
    ({"training": {"objective": "dpo"}}, 400, "training_file"),
]


def test_what_cannot_be_is_refused_by_field(serve, file_of, store):
    with serve() as client:
        rows = file_of(client)
        for changes, status, param in REFUSED:
            body = {"model": "tiny", "training_file": rows, **changes}
            if not changes:
                del body["training_file"]
            answer = client.post(JOBS, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (status, param), error
            assert "\n" not in error["message"]
    assert store.jobs.of_statuses("validating_files", "queued") == []


def test_bad_rows_are_refused_unless_they_are_left_out(serve, file_of, send):
    with serve() as client:
        rows = file_of(client, PAIR * 8 + b"oops\n")
        refused = create(client, rows)
        assert refused.json()["error"]["code"] == "invalid_file"
        assert "line 9" in refused.json()["error"]["message"]
        assert create(client, rows, training={"skip_bad_rows": True}).status_code == 200
        broken = file_of(client, b"hello\n")
        refused = create(client, broken)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "training_file")
        notes = send(client, b"x", name="n.txt", purpose="user_data").json()["id"]
        assert create(client, notes).json()["error"]["code"] == "invalid_file"


def test_a_file_of_an_unfinished_job_cannot_be_deleted(serve, file_of):
    with serve() as client:
        rows = file_of(client)
        job = create(client, rows).json()["id"]
        refused = client.delete(f"/v1/files/{rows}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "file_in_use")
        client.post(f"{JOBS}/{job}/cancel")
        assert client.delete(f"/v1/files/{rows}").json()["deleted"]


def test_graders_and_unknown_routes_are_not_offered(serve):
    with serve() as client:
        for path in ("alpha/graders/run", "jobs/x/y", ""):
            answer = client.post(f"/v1/fine_tuning/{path}", json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_route")


def mutations(body, count):
    """Bodies of jobs that are broken in many ways, as bytes."""
    random.seed(5)
    odd = [
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "x" * 5000,
        [],
        {},
        [[[]]],
        {"a": {"b": []}},
        "\u0000",
        2**70,
    ]
    names = [*body, "method", "hyperparameters", "adapter", "training", "metadata", "integrations"]
    for _ in range(count):
        changed = json.loads(json.dumps(body))
        match random.randrange(4):
            case 0:
                changed[random.choice(names)] = random.choice(odd)
            case 1:
                changed[random.choice(["x", "Model", "__proto__", ""])] = random.choice(odd)
            case 2:
                inner = random.choice(["adapter", "training", "metadata", "hyperparameters"])
                changed[inner] = {
                    random.choice(["rank", "epochs", "k", "method"]): random.choice(odd)
                }
            case _:
                text = bytearray(json.dumps(changed).encode())
                place = random.randrange(len(text))
                text[place : place + random.randint(0, 9)] = random.randbytes(random.randint(0, 5))
                yield bytes(text)
                continue
        yield json.dumps(changed).encode()


def test_malformed_bodies_get_one_sentence(serve, file_of, store):
    headers = {"Content-Type": "application/json"}
    refused = 0
    with serve() as client:
        body = {"model": "tiny", "training_file": file_of(client), "suffix": "a", "seed": 1}
        for content in mutations(body, 200):
            answer = client.post(JOBS, content=content, headers=headers)
            if answer.status_code == 200:
                client.post(f"{JOBS}/{answer.json()['id']}/cancel")
                continue
            refused += 1
            error = answer.json()["error"]
            assert 400 <= answer.status_code < 500, (content, error)
            assert error["message"]
            assert "\n" not in error["message"]
    assert refused > 100


def test_a_tenant_may_have_only_so_many_jobs_wait(serve, file_of, keys):
    key = keys("alice", "--train", "--max-queued-jobs", "2")
    with serve(key=key, keys=keys.path) as client:
        rows = file_of(client)
        assert [create(client, rows).status_code for _ in range(3)] == [200, 200, 429]
        refused = create(client, rows)
        assert refused.json()["error"]["code"] == "quota_exceeded"
        assert refused.headers["retry-after"]


def test_the_sha_of_a_request_is_of_the_body(serve, file_of, store):
    with serve() as client:
        rows = file_of(client)
        create(client, rows, seed=1)
        create(client, rows, seed=2)
    one, two = store.jobs.of_statuses("queued")
    assert one.request_sha256 != two.request_sha256
    assert one.request == {"model": "tiny", "training_file": rows, "seed": 1}
