"""A process that is lost ends the server: each request once, the others too, with the reason."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from engine_case import ask, slow_down
from ranks_case import followers, is_running, llm, send, wait_until

from gossamer.errors import EngineStoppedError, RankLostError, SettingError

from tiny import make_lora


class Family:
    """A model and a folder with one adapter."""

    def __init__(self, folder, model):
        self.model = model
        self.adapters = folder / "adapters"
        make_lora(self.adapters / "one", model, rank=4)


@pytest.fixture(scope="module")
def family(tmp_path_factory, tiny_model):
    return Family(tmp_path_factory.mktemp("lost"), tiny_model)


def check_all_ended(engine, requests, reason):
    """Every request has had one final event, which tells why, and the engine takes no others."""
    for request in requests:
        error = request.wait(60).error
        assert isinstance(error, EngineStoppedError)
        assert reason in str(error)
        assert len(request.finals) == 1
    wait_until(lambda: not engine.healthy())
    with pytest.raises(EngineStoppedError):
        ask(engine)
    with pytest.raises(RankLostError, match=re.escape(reason)):
        engine.check()


def test_a_killed_process_ends_every_request_with_its_exit_code(family):
    with llm(family, 2) as ranks:
        engine = ranks.engine
        (pid,) = followers(engine)
        slow_down(engine)
        requests = [ask(engine, adapter=name, max_tokens=400) for name in (None, "one") * 6]
        wait_until(lambda: all(request.events for request in requests))
        begun = time.monotonic()
        send([pid], signal.SIGKILL)
        check_all_ended(engine, requests, "rank 1 was lost (exit code -9); restart the server")
        took = time.monotonic() - begun
    print(f"\n  from SIGKILL to the last of 12 ends: {took:.2f} s")
    assert took < 20, "a second or two on an idle machine"


def test_a_process_that_fails_before_it_joins_is_no_one_s_to_wait_for(family, monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    monkeypatch.setattr("gossamer.cluster.tensor_parallel.start.follower_command", lambda: command)
    with pytest.raises(RankLostError, match=r"rank 1 was lost \(exit code 7\)"):
        llm(family, 2)


def test_a_process_that_fails_while_it_loads_the_model_ends_the_start(family, monkeypatch):
    code = (
        "import os, sys; from gossamer.cluster.tensor_parallel import follower\n"
        "def fail(*arguments): raise MemoryError('none left')\n"
        "follower.load_base = fail; sys.exit(follower.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code]
    monkeypatch.setattr("gossamer.cluster.tensor_parallel.start.follower_command", lambda: command)
    with pytest.raises(RankLostError, match=r"rank 1 was lost \(exit code 1\)"):
        llm(family, 2)


@pytest.mark.slow
def test_an_idle_server_notices_too(family):
    with llm(family, 2) as ranks:
        send(followers(ranks.engine), signal.SIGKILL)
        wait_until(lambda: not ranks.engine.healthy())
        check_all_ended(ranks.engine, [], "rank 1 was lost")


@pytest.mark.slow
def test_a_process_that_stands_still_is_lost_after_the_time_limit(family):
    with llm(family, 2, rank_timeout=4) as ranks:
        engine = ranks.engine
        pids = followers(engine)
        requests = [ask(engine, max_tokens=400) for _ in range(3)]
        wait_until(lambda: all(request.events for request in requests))
        begun = time.monotonic()
        send(pids, signal.SIGSTOP)
        check_all_ended(engine, requests, "a rank was lost")
        took = time.monotonic() - begun
    print(f"\n  from SIGSTOP to the end: {took:.2f} s at a limit of 4 s")
    assert 3.5 < took < 30
    assert not any(map(is_running, pids))


@pytest.mark.slow
def test_the_command_ends_with_an_error_and_leaves_no_process(family, tmp_path):
    """And it drains where it is asked to end, though a terminal's signal reaches all processes."""

    def started():
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gossamer", "serve", str(family.model)),
                *("--adapters", str(family.adapters), "--tensor-parallel", "2", "--port", "0"),
                *("--threads", "1", "--memory", "0.05"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        line = process.stdout.readline()
        children = f"/proc/{process.pid}/task"
        pids = subprocess.run(
            f"cat {children}/*/children", shell=True, capture_output=True, text=True
        ).stdout.split()
        return process, line.split(" at ")[1].split()[0], [int(pid) for pid in pids]

    process, url, pids = started()
    body = {"model": "one", "prompt": "Hi", "max_tokens": 3}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        assert len(json.load(reply)["choices"]) == 1
    send(pids, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "rank 1 was lost (exit code -9); restart the server" in errors

    process, _, pids = started()
    assert len(pids) == 1
    send([process.pid, *pids], signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not any(map(is_running, pids))


@pytest.mark.slow
def test_processes_of_torchrun_are_used_where_it_has_started_some(family):
    """Only rank 0 takes the port; the others end with it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "gossamer", "serve", str(family.model)),
            *("--adapters", str(family.adapters), "--tensor-parallel", "2", "--port", "0"),
            *("--threads", "1", "--memory", "0.05"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    url = process.stdout.readline().split(" at ")[1].split()[0]
    body = {"model": "one", "prompt": "Hi", "max_tokens": 3}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        assert len(json.load(reply)["choices"]) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_another_number_of_torchrun_s_processes_is_refused(family, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingError, match="tensor_parallel=2, but torchrun has started 3"):
        llm(family, 2)
