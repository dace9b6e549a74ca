"""A cluster on Ray Serve for tests: the command, and clients that ask it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import FolderStore

from tiny import make_lora, make_tiny_model

PORT = 8765
START_SECONDS = 900
PER_MINUTE = 1200
"""Tokens of the tenant that has a quota."""
ADAPTERS = [f"a{number}" for number in range(6)]
PROMPT = "hello there"


class RayCluster:
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

    def start(self, *words, **options):
        began = time.monotonic()
        self.begin(*words, **options)
        count = int(words[words.index("--replicas") + 1])
        self.until(lambda: self.has_replicas(count), START_SECONDS)
        print(f"\n  {count} of them answer after {time.monotonic() - began:.1f} s")

    def begin(self, *words, with_catalog=True, **environment):
        """Start the command and wait for nothing."""
        command = [sys.executable, "-m", "gossamer", "cluster", "serve", str(self.model)]
        if with_catalog:
            command += ["--catalog", self.url, "--cache", str(self.folder / "cache")]
        command += ["--port", str(PORT), "--memory", "0.01", "--threads", "1"]
        command += ["--cpus-per-replica", "0.5", "--keys", str(self.keys), *words]
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env={**os.environ, **environment}
        )

    def stop(self):
        began = time.monotonic()
        if self.process.poll() is None:
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

    def has_replicas(self, count):
        return [each["rank"] for each in self.figures()] == list(range(count))

    def ask(self, model, **fields):
        body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields}
        return self.client.post("/v1/completions", json=body)

    def text(self, model, **fields):
        reply = self.ask(model, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    def stream(self, model, began=lambda: None, **fields):
        """What one streamed request gave: its text, and its error if it has one."""
        body = {"model": model, "prompt": PROMPT, "temperature": 0, "stream": True, **fields}
        text, ends = "", 0
        with self.client.stream("POST", "/v1/completions", json=body) as reply:
            began()
            if reply.status_code != 200:
                text = reply.read().decode()
                # Serve's proxy answers by itself where there is no application any more.
                is_ours = reply.headers.get("content-type", "").startswith("application/json")
                return "", json.loads(text)["error"] if is_ours else text, 1
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
