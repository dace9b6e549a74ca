"""What a sender of uploads can take from the server: little memory, no disk, and an answer."""

import gc
import random
import socket
import threading
import time

import psutil
from job_case import PAIR

MIB = 2**20
MAX_GROWTH = 64 * MIB
HEAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
BEGINNING = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
)


def leftovers(settings):
    return list(settings.folder.scratch.iterdir())


def held():
    """The memory of this process, in which the server runs, in bytes."""
    gc.collect()
    return psutil.Process().memory_info().rss


def malformed(count):
    """Bodies of uploads that are broken in many ways, with the header that announces each."""
    random.seed(3)
    boundary = b"----b0undary"
    whole = (
        b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%b\r\n--%b--\r\n"
    ) % (boundary, boundary, PAIR * 3, boundary)
    kind = f"multipart/form-data; boundary={boundary.decode()}"
    yield whole[:-30], kind
    yield whole.replace(b"fine-tune", b"assistants"), kind
    yield whole.replace(b'name="file"', b'name="upload"'), kind
    yield whole.replace(b"a.jsonl", b"../../a.exe"), kind
    yield whole.replace(b"a.jsonl", b""), kind
    yield whole.replace(b"a.jsonl", b".."), kind
    yield whole.replace(PAIR * 3, b""), kind
    yield whole, "multipart/form-data"
    yield whole, "application/json"
    yield b"", kind
    for _ in range(count - 10):
        body = bytearray(whole)
        for _ in range(random.randint(1, 3)):
            # In what stands around the rows: those are anybody's.
            place = random.choice([random.randrange(190), len(body) - 1 - random.randrange(18)])
            if random.random() < 0.5:
                del body[place : place + random.randint(1, 30)]
            else:
                body[place:place] = random.randbytes(random.randint(1, 30))
        yield bytes(body), kind


def test_malformed_uploads_get_one_sentence_and_leave_nothing(serve, settings, store, capsys):
    refused, slowest = 0, 0.0
    with serve() as client:
        bodies = list(malformed(200))
        client.post("/v1/files", content=bodies[0][0], headers={"Content-Type": bodies[0][1]})
        before = held()
        for body, kind in bodies:
            started = time.monotonic()
            answer = client.post("/v1/files", content=body, headers={"Content-Type": kind})
            slowest = max(slowest, time.monotonic() - started)
            if answer.status_code == 200:
                assert client.delete(f"/v1/files/{answer.json()['id']}").status_code == 200
                continue
            refused += 1
            error = answer.json()["error"]
            assert 400 <= answer.status_code < 500, (body, error)
            assert error["message"]
            assert "\n" not in error["message"]
            assert not leftovers(settings)
        growth = held() - before
    assert refused > 120
    assert growth <= MAX_GROWTH
    assert store.files.total_bytes("default") == 0
    with capsys.disabled():
        print(f"\n  the slowest answer {slowest:.3f} s, {growth / MIB:.1f} MiB more memory")


def test_a_body_without_an_end_is_cut_off_at_the_limit(serve, settings):
    piece = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
    sent = 0
    with serve() as client:
        address = (client.base_url.host, client.base_url.port)
        before = held()
        with socket.create_connection(address) as raw:
            raw.settimeout(60)
            raw.sendall(HEAD % b"Transfer-Encoding: chunked")
            raw.sendall(b"%x\r\n%b\r\n" % (len(BEGINNING), BEGINNING))
            answered = threading.Event()
            answer = []
            reader = threading.Thread(target=lambda: (answer.append(read(raw)), answered.set()))
            reader.start()
            try:
                while not answered.is_set() and sent < 3000:
                    raw.sendall(piece)
                    sent += 1
            except OSError:
                pass
            reader.join()
        growth = held() - before
    assert answer[0].startswith(b"HTTP/1.1 400 ")
    assert b"file_too_large" in answer[0]
    assert sent < 100, "of 3 GB"
    assert growth <= MAX_GROWTH
    assert not leftovers(settings)


def read(raw):
    """All that comes until the other side closes, or has said enough."""
    found = b""
    try:
        while b'"code"' not in found and (more := raw.recv(4096)):
            found += more
    except OSError:
        pass
    return found


def test_a_sender_that_falls_silent_is_cut_off_and_leaves_nothing(serve, settings):
    with serve(body_timeout=0.5) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address) as raw:
            raw.settimeout(60)
            raw.sendall(HEAD % b"Content-Length: 900000" + BEGINNING + b"x" * 600_000)
            assert read(raw).startswith(b"HTTP/1.1 408 ")
        deadline = time.monotonic() + 30
        while leftovers(settings):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get("/v1/files").json()["data"] == []
