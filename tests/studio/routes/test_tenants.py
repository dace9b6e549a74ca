"""Two tenants: what is the one's does not exist for the other, on any route."""

import pytest

PAIR = b'{"prompt": "a", "completion": "b"}\n'
JOBS = "/v1/fine_tuning/jobs"
UPLOAD = {"bytes": 10, "filename": "a.jsonl", "mime_type": "x", "purpose": "fine-tune"}


@pytest.fixture
def world(serve, send, keys):
    """A server on which alice has a file, a job and an upload; calls of each."""
    alice, bob = keys("alice", "--train"), keys("bob", "--train")
    with serve(keys=keys.path) as client:

        def call(key, method, path, **options):
            return client.request(
                method, path, headers={"Authorization": f"Bearer {key}"}, **options
            )

        auth = {"Authorization": f"Bearer {alice}"}
        client.alice, client.bob, client.call = alice, bob, call
        client.file = send(client, headers=auth).json()["id"]
        body = {"model": "tiny", "training_file": client.file}
        client.job = call(alice, "POST", JOBS, json=body).json()["id"]
        client.upload = call(alice, "POST", "/v1/uploads", json=UPLOAD).json()["id"]
        yield client


def foreign(world):
    """Every route with an identifier, asked with alice's."""
    part = {"files": {"data": ("data", b"x")}}
    return [
        ("GET", f"/v1/files/{world.file}", {}),
        ("GET", f"/v1/files/{world.file}/content", {}),
        ("GET", f"/v1/files/{world.file}/report", {}),
        ("GET", f"/v1/files/{world.file}/rows", {}),
        ("DELETE", f"/v1/files/{world.file}", {}),
        ("POST", f"/v1/uploads/{world.upload}/parts", part),
        ("POST", f"/v1/uploads/{world.upload}/complete", {"json": {"part_ids": ["part_x"]}}),
        ("POST", f"/v1/uploads/{world.upload}/cancel", {}),
        ("GET", f"{JOBS}/{world.job}", {}),
        ("POST", f"{JOBS}/{world.job}/cancel", {}),
        ("POST", f"{JOBS}/{world.job}/pause", {}),
        ("POST", f"{JOBS}/{world.job}/resume", {}),
        ("GET", f"{JOBS}/{world.job}/events", {}),
        ("GET", f"{JOBS}/{world.job}/checkpoints", {}),
        ("GET", f"{JOBS}/{world.job}/samples", {}),
        ("GET", f"{JOBS}/{world.job}/log", {}),
        ("POST", JOBS, {"json": {"model": "tiny", "training_file": world.file}}),
        ("GET", f"/v1/files?after={world.file}", {}),
        ("GET", f"{JOBS}?after={world.job}", {}),
        ("GET", "/v1/models/ft:tiny:alice:x:abcdefgh", {}),
        ("DELETE", "/v1/models/ft:tiny:alice:x:abcdefgh", {}),
        ("GET", "/v1/fine_tuning/checkpoints/ft:tiny:alice:x:abcdefgh/permissions", {}),
        (
            "POST",
            "/v1/fine_tuning/checkpoints/ft:tiny:alice:x:abcdefgh/permissions",
            {"json": {"project_ids": ["bob"]}},
        ),
        (
            "POST",
            "/studio/api/models/ft:tiny:alice:x:abcdefgh/alias",
            {"json": {"alias": "pirate"}},
        ),
        ("DELETE", "/studio/api/models/ft:tiny:alice:x:abcdefgh/alias", {}),
        ("POST", "/studio/api/models/ft:tiny:alice:x:abcdefgh/restore", {}),
        ("GET", "/studio/api/models/ft:tiny:alice:x:abcdefgh/archive", {}),
    ]


def test_what_is_anothers_does_not_exist(world):
    for method, path, options in foreign(world):
        answer = world.call(world.bob, method, path, **options)
        assert answer.status_code == 404, (method, path, answer.text)
        assert "alice" not in answer.text.replace("ft:tiny:alice:x:abcdefgh", "")
    assert world.call(world.bob, "GET", "/v1/files").json()["data"] == []
    assert world.call(world.bob, "GET", JOBS).json()["data"] == []
    stream = world.call(world.bob, "GET", f"{JOBS}/{world.job}/events", params={}, timeout=30)
    assert stream.status_code == 404
    assert world.call(world.alice, "GET", f"{JOBS}/{world.job}").json()["status"] != "cancelled"


def test_the_answer_is_that_for_an_identifier_that_never_was(world):
    for kind, path in (("file", f"/v1/files/{world.file}"), ("job", f"{JOBS}/{world.job}")):
        real = world.call(world.bob, "GET", path).json()
        made_up = path[:-4] + "abcd"
        absent = world.call(world.bob, "GET", made_up).json()
        assert real["error"]["code"] == absent["error"]["code"] == f"{kind}_not_found"
        last = path.rpartition("/")[2]
        assert real["error"]["message"].replace(last, "") == absent["error"]["message"].replace(
            made_up.rpartition("/")[2], ""
        )


def test_who_may_not_train_is_told_so_on_every_route(world, keys):
    reader, admin = keys("carol", "--adapter", "*"), keys("root", "--admin")
    for method, path, options in foreign(world)[:19]:
        answer = world.call(reader, method, path, **options)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "training_not_allowed")
    answer = world.call(reader, "POST", "/v1/files", files={"file": ("a.jsonl", PAIR)})
    assert answer.status_code == 403
    assert world.call(admin, "GET", f"{JOBS}/{world.job}").status_code == 200
    assert len(world.call(admin, "GET", "/v1/files").json()["data"]) == 1


def test_no_route_answers_without_a_key(world):
    for method, path, options in foreign(world):
        assert world.request(method, path, **options).status_code == 401


def test_storage_is_bounded_by_tenant(serve, send, keys):
    key = keys("alice", "--train", "--storage-mib", "0.0002")
    with serve(key=key, keys=keys.path) as client:
        assert send(client, PAIR * 4).status_code == 200
        refused = send(client, PAIR * 4)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "storage_exceeded")
