"""Replicas on Ray Serve: `make test-cluster`, on the machine's loopback alone.

Times are printed and not judged: a busy machine takes as long as it takes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import FolderStore
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora, make_tiny_model

pytest.importorskip("ray", reason="needs the packages of the extra cluster: make test-cluster")
pytestmark = pytest.mark.slow

PORT = 8765
START_SECONDS = 900
PER_MINUTE = 1200
"""Tokens of the tenant that has a quota."""
ADAPTERS = [f"a{number}" for number in range(6)]
PROMPT = "hello there"
GREEDY = SamplingParams(max_tokens=8, temperature=0)


class Cluster:
    """A running cluster, its catalog, and the same adapters for one process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared = folder, folder / "shared"
        self.shared.mkdir()
        self.model = make_tiny_model(folder / "base")
        self.url = f"sqlite:///{self.shared}/catalog.db"
        self.catalog, self.store = AdapterCatalog(self.url), FolderStore(self.shared)
        for number, name in enumerate(ADAPTERS):
            make_lora(folder / "runs" / name, self.model, rank=4, seed=number)
            self.publish(folder / "runs" / name)
        self.keys = folder / "keys.yaml"
        self.admin = self.make_key("boss", "--admin")
        self.tenant = self.make_key("acme", "--tokens-per-minute", str(PER_MINUTE))
        self.client = self.client_of(self.admin)

    def make_key(self, *words):
        command = [sys.executable, "-m", "gossamer", "keys", "add", *words]
        made = subprocess.run(
            [*command, "--file", str(self.keys)], capture_output=True, text=True, check=True
        )
        return made.stdout.split()[0]

    def client_of(self, key):
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120, headers=headers)

    def start(self):
        command = [sys.executable, "-m", "gossamer", "cluster", "serve", str(self.model)]
        command += ["--catalog", self.url, "--cache", str(self.folder / "cache"), "--replicas", "2"]
        command += ["--port", str(PORT), "--memory", "0.01", "--threads", "1"]
        command += ["--cpus-per-replica", "0.5", "--drain-seconds", "5"]
        command += ["--ingresses", "2", "--keys", str(self.keys)]
        began = time.monotonic()
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.until(self.has_replicas, START_SECONDS)
        print(f"\n  two replicas answer after {time.monotonic() - began:.1f} s")

    def stop(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(300)
        print(f"\n  stopped after {time.monotonic() - began:.1f} s")
        self.log.close()
        self.client.close()
        self.catalog.close()
        return status

    def publish(self, folder, name=None):
        return publish_adapter(folder, self.catalog, self.store, name)

    def until(self, condition, seconds=300):
        deadline = time.monotonic() + seconds
        while not condition():
            text = (self.folder / "log").read_text()
            assert self.process.poll() is None, f"the command has ended: {text[-3000:]}"
            assert time.monotonic() < deadline, f"it has not come true: {text[-3000:]}"
            time.sleep(0.2)

    def figures(self):
        try:
            return self.client.get("/v1/cluster").json()["replicas"]
        except (httpx.HTTPError, ValueError, KeyError):
            return []

    def has_replicas(self):
        figures = self.figures()
        return [each["rank"] for each in figures] == [0, 1]

    def ask(self, model, **fields):
        body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields}
        return self.client.post("/v1/completions", json=body)

    def text(self, model, **fields):
        reply = self.ask(model, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    def stream(self, model, **fields):
        """What one streamed request gave: its text, and its error if it has one."""
        body = {"model": model, "prompt": PROMPT, "temperature": 0, "stream": True, **fields}
        text, ends = "", 0
        with self.client.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                return "", json.loads(reply.read())["error"], 1
            for line in reply.iter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    return text, None, ends
                part = json.loads(line.removeprefix("data: "))
                if "error" in part:
                    return text, part["error"], 1
                choice = part["choices"][0]
                text += choice["text"]
                ends += choice["finish_reason"] is not None
        raise AssertionError("the stream ended without an end")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two replicas on Ray Serve, with one ingress."""
    found = Cluster(tmp_path_factory.mktemp("ray"))
    found.start()
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def expected(cluster):
    """What one process answers."""
    names = [None, *ADAPTERS]
    with LLM(str(cluster.model), adapters=cluster.folder / "runs", memory_gib=0.01) as llm:
        done = llm.generate([PROMPT] * 7, adapter=names, sampling=GREEDY)
        return {name or "base": each.text for name, each in zip(names, done, strict=True)}


def test_answers_are_those_of_one_process(cluster, expected):
    asked = [name for name in expected for _ in range(5)][:30]
    equal = [cluster.text(name) == expected[name] for name in asked]
    print(f"\n  {sum(equal)} of {len(equal)} answers are equal")
    assert all(equal)
    for name in ADAPTERS:
        text, error, ends = cluster.stream(name, max_tokens=8)
        assert (text, error, ends) == (expected[name], None, 1)


def test_each_adapter_was_loaded_on_one_replica(cluster, expected):
    for _ in range(3):
        for name in ADAPTERS:
            assert cluster.text(name) == expected[name]
    # Replicas report about once a second.
    time.sleep(3)
    loads = [each["adapter_loads"] for each in cluster.figures()]
    print(f"\n  {len(ADAPTERS)} adapters were loaded {sum(loads)} times: {loads}")
    assert sum(loads) == len(ADAPTERS)
    assert min(loads) > 0


def test_errors_are_those_of_one_server(cluster):
    unknown = cluster.ask("a9")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    too_long = cluster.ask("a0", max_tokens=10_000)
    assert too_long.status_code == 400
    assert cluster.client.get("/health").status_code == 200
    assert "vllm:lora_requests_info" in cluster.client.get("/metrics").text


def test_the_status_command_shows_every_replica(cluster):
    command = [sys.executable, "-m", "gossamer", "cluster", "status"]
    done = subprocess.run(
        [*command, "--url", f"http://127.0.0.1:{PORT}", "--api-key", cluster.admin],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "2 replicas, 6 adapters" in lines[0]
    assert [line.split()[:2] for line in lines[3:5]] == [["0", "healthy"], ["1", "healthy"]]


def test_a_client_that_leaves_frees_its_request(cluster):
    def running():
        return sum(each["num_running"] for each in cluster.figures())

    def cancelled():
        return sum(each["finished"]["cancelled"] for each in cluster.figures())

    body = {"model": "a0", "prompt": PROMPT, "max_tokens": 450, "stream": True, "ignore_eos": True}
    for _ in range(10):
        with cluster.client.stream("POST", "/v1/completions", json={**body, "n": 32}) as reply:
            next(reply.iter_lines())
        left = time.monotonic()
        cluster.until(lambda: running() == 0)
        seconds = time.monotonic() - left
        # Replicas report about once a second: the counts may be those of the moment before.
        time.sleep(3)
        if cancelled() > 0:
            break
    print(f"\n  free {seconds:.1f} s after it left; {cancelled()} answers cancelled")
    assert running() == 0
    assert cancelled() > 0


def test_a_quota_holds_over_both_ingresses(cluster):
    used, refusals, stop = [], [], threading.Event()
    began = time.monotonic()

    def flood():
        body = {"model": "base", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        with cluster.client_of(cluster.tenant) as client:
            while not stop.is_set():
                # A connection of its own, so that either ingress may get it.
                reply = client.post("/v1/completions", json=body, headers={"Connection": "close"})
                if reply.status_code == 200:
                    used.append(reply.json()["usage"]["total_tokens"])
                else:
                    assert reply.status_code == 429, reply.text
                    refusals.append(reply.headers["retry-after"])
                    time.sleep(0.05)

    clients = [threading.Thread(target=flood) for _ in range(4)]
    for each in clients:
        each.start()
    cluster.until(lambda: sum(used) >= PER_MINUTE and len(refusals) > 20)
    time.sleep(20)
    stop.set()
    for each in clients:
        each.join()
    minutes = (time.monotonic() - began) / 60
    # A full account at first, a lease for each ingress, and what the requests of a moment owe.
    most = PER_MINUTE * (1 + minutes) + 2 * PER_MINUTE / 60 + 4 * max(used)
    print(f"\n  {sum(used)} tokens in {minutes:.2f} minutes, of {most:.0f} at most")
    assert 0.8 * PER_MINUTE * (1 + minutes) <= sum(used) <= most


def test_a_killed_replica_loses_no_request_and_comes_back(cluster, expected):
    outcomes, stop = [], threading.Event()

    def client(number):
        while not stop.is_set():
            name = ADAPTERS[number % len(ADAPTERS)]
            began = time.monotonic()
            text, error, ends = cluster.stream(name, max_tokens=8)
            outcomes.append((name, text, error, ends, time.monotonic() - began))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for each in clients:
        each.start()
    cluster.until(lambda: len(outcomes) > 24)
    victim = cluster.figures()[0]["process"]
    before = len(outcomes)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()

    def is_back():
        figures = cluster.figures()
        return len(figures) == 2 and victim not in {each["process"] for each in figures}

    cluster.until(is_back)
    back = time.monotonic() - killed
    cluster.until(lambda: len(outcomes) > before + 48)
    stop.set()
    for each in clients:
        each.join()
    failures = [each for each in outcomes if each[2] is not None]
    longest = max(each[4] for each in outcomes[before:])
    print(
        f"\n  {len(outcomes)} requests, {len(failures)} cut off by the loss, the longest took "
        f"{longest:.1f} s; the replica is back after {back:.1f} s"
    )
    assert all(ends == 1 for _, _, _, ends, _ in outcomes)
    assert all(text == expected[name] for name, text, error, _, _ in outcomes if error is None)
    assert all("was lost" in each[2]["message"] and each[1] for each in failures)


def test_a_new_version_is_every_replicas_at_once(cluster):
    folders = []
    for number in (0, 1):
        folder = make_lora(cluster.folder / f"v{number}", cluster.model, rank=4, seed=30 + number)
        folders.append(folder)
    with LLM(str(cluster.model), memory_gib=0.01, adapters=folders) as llm:
        done = llm.generate([PROMPT] * 2, adapter=["v0", "v1"], sampling=GREEDY)
    former, later = (each.text for each in done)
    assert former != later
    cluster.publish(folders[0], "tone")
    cluster.until(lambda: cluster.ask("tone").status_code == 200)
    answers, stop = [], threading.Event()

    def client():
        while not stop.is_set():
            began = time.monotonic()
            answers.append((began, cluster.text("tone")))

    clients = [threading.Thread(target=client) for _ in range(6)]
    for each in clients:
        each.start()
    cluster.until(lambda: len(answers) > 12)
    command = [sys.executable, "-m", "gossamer", "cluster", "publish", str(folders[1])]
    subprocess.run([*command, "--catalog", cluster.url, "--name", "tone"], check=True)
    # Ingresses look at the catalog once a second.
    switched = time.monotonic() + 1.5
    cluster.until(lambda: sum(began > switched for began, _ in answers) > 24)
    stop.set()
    for each in clients:
        each.join()
    after = [text for began, text in answers if began > switched]
    print(f"\n  {len(after)} of {len(after)} answers after the switch are the new version's")
    assert set(after) == {later}
    assert {text for _, text in answers} <= {former, later}
    assert answers[0][1] == former
