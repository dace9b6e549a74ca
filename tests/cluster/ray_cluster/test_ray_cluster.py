"""Replicas on Ray Serve: `make test-cluster`, on the machine's loopback alone.

Times are printed and not judged: a busy machine takes as long as it takes.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from ray_case import ADAPTERS, PER_MINUTE, PORT, PROMPT, RayCluster

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora

pytest.importorskip("ray", reason="needs the packages of the extra cluster: make test-cluster")
pytestmark = pytest.mark.slow

KEPT = ["--replicas", "2", "--ingresses", "2", "--drain-seconds", "5"]
GREEDY = SamplingParams(max_tokens=8, temperature=0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two replicas on Ray Serve, with one ingress."""
    found = RayCluster(tmp_path_factory.mktemp("ray"))
    # The command starts a Ray of its own that asks for a token, whatever is said here.
    found.start(*KEPT, RAY_ADDRESS="127.0.0.1:9", RAY_AUTH_MODE="disabled")
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


def processes(cluster):
    return psutil.Process(cluster.process.pid).children(recursive=True)


def head_of(cluster):
    return next(each for each in processes(cluster) if each.name() == "gcs_server")


def ports(process, is_wanted=lambda address: True):
    """Those at which a process takes connections, on addresses that are wanted."""
    found = (each for each in process.net_connections("tcp") if each.status == "LISTEN")
    return [each.laddr.port for each in found if is_wanted(each.laddr.ip)]


def test_ray_obeys_only_calls_with_the_token_of_the_run(cluster):
    head = head_of(cluster)
    [port] = ports(head)
    code = f"import ray; ray.init(address='127.0.0.1:{port}', logging_level=50)"
    found = []
    for token in ("0" * 64, head.environ()["RAY_AUTH_TOKEN"]):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            capture_output=True,
            text=True,
        )
        found.append((answer.returncode, "ConnectionError" in answer.stderr))
    assert found == [(1, True), (0, False)]
    command = [sys.executable, "-m", "gossamer", "cluster", "serve", str(cluster.model)]
    refused = subprocess.run(
        [*command, "--ray-address", f"127.0.0.1:{port}"],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("gossamer: error: no Ray cluster at")
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in last


def test_beyond_the_loopback_only_serves_replicas_listen_and_ask_for_the_token(cluster):
    import grpc

    def is_beyond(address):
        return address.removeprefix("::ffff:") not in ("127.0.0.1", "::1")

    token = head_of(cluster).environ()["RAY_AUTH_TOKEN"]
    open_ports = []
    for process in processes(cluster):
        beyond = ports(process, is_beyond)
        assert not beyond or process.cmdline()[0].startswith("ray::ServeReplica:gossamer:")
        open_ports += beyond
    # The ledger, two replicas and two ingresses.
    assert len(open_ports) == 5
    for port in open_ports:
        refusals = []
        for each in (None, "0" * 64, token):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                headers = [("authorization", f"Bearer {each}")] if each else []
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", metadata=headers)
            refusals.append(caught.value.code() == grpc.StatusCode.UNAUTHENTICATED)
        # An empty call is an error even with the token, but a later one.
        assert refusals == [True, True, False]


def running(cluster):
    return sum(each["num_running"] for each in cluster.figures())


def test_a_client_that_leaves_frees_its_request(cluster):
    def cancelled():
        return sum(each["finished"]["cancelled"] for each in cluster.figures())

    body = {"model": "a0", "prompt": PROMPT, "max_tokens": 450, "stream": True, "ignore_eos": True}
    for _ in range(10):
        with cluster.client.stream("POST", "/v1/completions", json={**body, "n": 32}) as reply:
            lines = reply.iter_lines()
            next(lines)
            # Replicas report about once a second; before that the count is of a time without it.
            # A machine on which all was answered sooner tells nothing, and it is asked again.
            has_run = any(running(cluster) > 0 for _ in lines)
        left = time.monotonic()
        cluster.until(lambda: running(cluster) == 0)
        seconds = time.monotonic() - left
        # The counts of what has ended may still be those of the moment before.
        time.sleep(3)
        if has_run and cancelled() > 0:
            break
    print(f"\n  free {seconds:.1f} s after it left; {cancelled()} answers cancelled")
    assert has_run
    assert running(cluster) == 0
    assert cancelled() > 0


def test_a_router_is_told_at_any_ingress_which_adapters_requests_use(cluster):
    body = {"model": "a1", "prompt": PROMPT, "max_tokens": 450, "stream": True, "ignore_eos": True}

    def is_told():
        lines = cluster.client.get("/metrics").text.splitlines()
        [told] = [line for line in lines if line.startswith("vllm:lora_requests_info{")]
        return 'running_lora_adapters="a1"' in told

    assert not is_told()
    for _ in range(10):
        with cluster.client.stream("POST", "/v1/completions", json={**body, "n": 32}) as reply:
            if any(is_told() for _ in reply.iter_lines()):
                break
    else:
        raise AssertionError("no report named it while requests ran")
    cluster.until(lambda: not is_told())


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
    outcomes, stop, is_survived = [], threading.Event(), threading.Event()

    def client(number):
        while not stop.is_set():
            # Clients without a pause would take the cores that the new replica starts on.
            if is_survived.is_set():
                time.sleep(0.5)
            name = ADAPTERS[number % len(ADAPTERS)]
            began = time.monotonic()
            text, error, ends = cluster.stream(name, max_tokens=8)
            outcomes.append((name, text, error, ends, time.monotonic() - began))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for each in clients:
        each.start()
    cluster.until(lambda: len(outcomes) > 24)
    # The new replica loads by itself what the catalog has been told that clients ask for.
    cluster.until(lambda: len(cluster.catalog.asked.most(len(ADAPTERS))) == len(ADAPTERS))
    victim = cluster.figures()[0]["process"]
    before = len(outcomes)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    cluster.until(lambda: len(outcomes) > before + 24)
    is_survived.set()

    def is_back():
        figures = cluster.figures()
        return len(figures) == 2 and victim not in {each["process"] for each in figures}

    cluster.until(is_back)
    back = time.monotonic() - killed

    def warmed():
        return [each["warmed"] for each in cluster.figures() if each["rank"] == 0]

    cluster.until(lambda: warmed() > [0])
    cluster.until(lambda: len(outcomes) > before + 48)
    stop.set()
    for each in clients:
        each.join()
    failures = [each for each in outcomes if each[2] is not None]
    longest = max(each[4] for each in outcomes[before:])
    print(
        f"\n  {len(outcomes)} requests, {len(failures)} cut off by the loss, the longest took "
        f"{longest:.1f} s; the replica is back after {back:.1f} s, "
        f"with {warmed()[0]} adapters that it loaded by itself"
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
