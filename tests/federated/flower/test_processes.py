"""A superlink and two supernodes on this machine compute what our own loop does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from federated_runs import LOW_RANK, federate, settings_of, weights, write_kinds
from house import ROOT

pytest.importorskip("flwr", reason="flwr is not installed; make test-federated runs these tests")

from gossamer.federated.flower.write_app import write_app

BIN = Path(sys.executable).parent
PATIENCE = 1500.0
"""Seconds; every round of a client is a process that loads all libraries."""
CONNECTION = '[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{}"\ninsecure = true\n'


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for sock in held:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


class Processes:
    """Programs of Flower's, which end with the test, and all that they have started."""

    def __init__(self, folder):
        self._folder = folder
        self._running = []
        self.home = folder / "home"
        self.home.mkdir()
        self._environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
        }

    def start(self, name, *words):
        log = self._folder / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [str(BIN / words[0]), *map(str, words[1:])],
                cwd=self._folder,
                env=self._environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((process, log))
        return process

    def wait_for(self, path):
        until = time.monotonic() + PATIENCE
        while not path.exists():
            for process, log in self._running:
                assert process.poll() in (None, 0), log.read_text()[-3000:]
            logs = "\n".join(log.read_text()[-1500:] for _, log in self._running)
            assert time.monotonic() < until, logs
            time.sleep(0.5)

    def wait_for_port(self, port):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError(f"nothing listens at port {port}")

    def end(self):
        for process, _ in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process, _ in self._running:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.slow
def test_a_run_over_loopback_leaves_the_same_adapter(tiny_model, tmp_path):
    rows = write_kinds(tmp_path / "rows.jsonl")
    options = {"clients": 2, "aggregation": "fedex", "method_settings": LOW_RANK}
    ours = federate(tiny_model, rows, tmp_path / "ours", **options)
    app = tmp_path / "app"
    write_app(settings_of(tiny_model, rows, tmp_path / "theirs", **options), app)
    link, *nodes = free_ports(3)
    address = f"127.0.0.1:{link}"
    flower = Processes(tmp_path)
    (flower.home / "config.toml").write_text(CONNECTION.format(address))
    try:
        flower.start(
            *("superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1"),
            *("--port", link, "--disable-runtime-dependency-installation"),
        )
        flower.wait_for_port(link)
        for number, port in enumerate(nodes):
            own = ours.output / "clients" / f"client-{number}.jsonl"
            flower.start(
                *(f"node-{number}", "flower-supernode", "--insecure", "--superlink", address),
                *("--port", port, "--node-config", f'partition-id={number} data="{own}"'),
            )
        flower.start("run", "flwr", "run", app, "here", "--stream")
        flower.wait_for(tmp_path / "theirs" / "adapter_config.json")
    finally:
        flower.end()
    for name, tensor in weights(ours.output).items():
        torch.testing.assert_close(weights(tmp_path / "theirs")[name], tensor, rtol=0, atol=1e-6)
