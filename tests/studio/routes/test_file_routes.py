"""Files and uploads over HTTP: OpenAI's objects, pages, refusals that leave nothing."""

import hashlib
import socket
import time

import pytest

PAIR = b'{"prompt": "a", "completion": "b"}\n'


def wait(client, file_id):
    deadline = time.monotonic() + 60
    while (found := client.get(f"/v1/files/{file_id}").json())["status"] == "uploaded":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def leftovers(settings):
    return list(settings.folder.scratch.iterdir())


def test_a_file_is_sent_listed_read_and_deleted(serve, send, settings):
    with serve() as client:
        made = send(client, name="näme.jsonl").json()
        assert made["object"] == "file"
        assert made["id"].startswith("file-")
        assert (made["bytes"], made["filename"], made["purpose"]) == (
            105,
            "näme.jsonl",
            "fine-tune",
        )
        assert made["created_at"] == pytest.approx(time.time(), abs=60)
        assert wait(client, made["id"])["status"] == "processed"
        report = client.get(f"/v1/files/{made['id']}/report").json()
        assert report["rows"] == {"read": 3, "used": 3, "bad": 0}
        content = client.get(f"/v1/files/{made['id']}/content")
        assert content.content == PAIR * 3
        assert content.headers["content-type"] == "application/octet-stream"
        assert content.headers["content-disposition"].startswith("attachment")
        assert content.headers["x-content-type-options"] == "nosniff"
        listing = client.get("/v1/files").json()
        assert [file["id"] for file in listing["data"]] == [made["id"]]
        assert (listing["first_id"], listing["last_id"], listing["has_more"]) == (
            made["id"],
            made["id"],
            False,
        )
        gone = client.request(
            "DELETE", f"/v1/files/{made['id']}", headers={"Content-Type": "application/json"}
        )
        assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
        again = client.get(f"/v1/files/{made['id']}")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "file_not_found")
    assert not leftovers(settings)


def test_pages_follow_one_another_without_gap(serve, send):
    with serve() as client:
        ids = [send(client, PAIR * n).json()["id"] for n in range(1, 6)]
        send(client, b"x", name="x.txt", purpose="user_data")
        seen, after = [], {}
        while True:
            page = client.get("/v1/files", params={"purpose": "fine-tune", "limit": 2, **after})
            seen += [file["id"] for file in page.json()["data"]]
            if not page.json()["has_more"]:
                break
            after = {"after": page.json()["last_id"]}
        assert seen == ids[::-1]
        oldest = client.get("/v1/files?order=asc&limit=1").json()
        assert oldest["first_id"] == ids[0]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=10001", "limit"),
        ("order=up", "order"),
        ("purpose=batch", "purpose"),
        ("colour=red", "colour"),
    ],
)
def test_wrong_questions_are_named(serve, query, param):
    with serve() as client:
        answer = client.get(f"/v1/files?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert client.get("/v1/files?after=file-x").status_code == 404


def test_a_large_file_comes_in_parts(serve, settings):
    content = PAIR * 60_000
    with serve() as client:
        upload = client.post(
            "/v1/uploads",
            json={
                "bytes": len(content),
                "filename": "big.jsonl",
                "mime_type": "text/jsonl",
                "purpose": "fine-tune",
            },
        ).json()
        assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
        parts = []
        for start in range(0, len(content), 1_000_000):
            piece = {"data": ("data", content[start : start + 1_000_000])}
            part = client.post(f"/v1/uploads/{upload['id']}/parts", files=piece).json()
            assert (part["object"], part["upload_id"]) == ("upload.part", upload["id"])
            parts.append(part["id"])
        body = {"part_ids": parts, "md5": hashlib.md5(content).hexdigest()}
        done = client.post(f"/v1/uploads/{upload['id']}/complete", json=body).json()
        assert done["status"] == "completed"
        assert client.get(f"/v1/files/{done['file']['id']}/content").content == content
        other = client.post("/v1/uploads", json={**body_of(upload), "bytes": 10}).json()
        ended = client.post(f"/v1/uploads/{other['id']}/cancel", content=b"")
        assert ended.json()["status"] == "cancelled"
        again = client.post(f"/v1/uploads/{other['id']}/cancel")
        assert (again.status_code, again.json()["error"]["code"]) == (400, "wrong_state")
    assert not leftovers(settings)


def body_of(upload):
    return {"filename": upload["filename"], "purpose": upload["purpose"], "mime_type": "x"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "bytes"),
        ({"bytes": "5"}, "bytes"),
        ({"bytes": -5}, "bytes"),
        ({"bytes": 2**63}, "bytes"),
        ({"bytes": 5, "purpose": "batch"}, "purpose"),
        ({"bytes": 5, "filename": "x.exe"}, "file"),
        ({"bytes": 5, "colour": 1}, "colour"),
    ],
)
def test_wrong_uploads_are_named(serve, body, param):
    full = {"filename": "a.jsonl", "mime_type": "x", "purpose": "fine-tune", **body}
    with serve() as client:
        answer = client.post("/v1/uploads", json=full)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_a_file_beyond_the_limit_is_refused_before_it_is_sent(serve, settings):
    with serve() as client:
        head = (
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        started = time.monotonic()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(head)
            raw.settimeout(30)
            answer = b""
            # The head may come before the body.
            while not answer.endswith(b"}") and (more := raw.recv(4096)):
                answer += more
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"file_too_large" in answer
        assert time.monotonic() - started < 20
        answer = client.post("/v1/files", files={"file": ("a.jsonl", PAIR * 40_000)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "file_too_large")
    assert not leftovers(settings)


def test_a_client_that_leaves_in_the_middle_leaves_nothing(serve, settings):
    with serve() as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(
                b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: "
                b'form-data; name="file"; filename="a.jsonl"\r\n\r\n' + b"x" * 600_000
            )
            deadline = time.monotonic() + 30
            while not leftovers(settings):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        while leftovers(settings):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get("/v1/files").json()["data"] == []
