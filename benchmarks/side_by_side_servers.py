"""The two servers that `side_by_side.py` compares: how each is started, asked and watched."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 600.0
"""Seconds in which a server must be ready."""

Weights = Mapping[int, float]
"""Number of an adapter to its weight in a request; empty: the base model alone."""


class Server(ABC):
    """A server process on a free port of this machine; a context manager."""

    name: str

    def __init__(self, command: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.command = [*command, "--host", "127.0.0.1", "--port", str(port)]
        self.url = f"http://127.0.0.1:{port}"
        self.seconds_to_ready = 0.0

    def __enter__(self) -> "Server":
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        started = time.perf_counter()
        self._process = subprocess.Popen(self.command, stdout=self._log, stderr=self._log)
        try:
            self._wait(started + PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        self.seconds_to_ready = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait(self, deadline: float) -> None:
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.HTTPError:
                pass
            if self._process.poll() is not None or time.perf_counter() > deadline:
                self._log.seek(0)
                last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
                sys.exit(f"side_by_side.py: error: {self.name} did not start: {last}")
            time.sleep(0.1)

    def resident_mib(self) -> float:
        """Memory of the process, now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def body(self, prompt: Sequence[int], weights: Weights, new_tokens: int) -> dict[str, Any]:
        """A greedy completion of exactly `new_tokens` tokens, streamed."""
        return {
            "model": "any",
            "prompt": list(prompt),
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | self.choice(weights)

    @abstractmethod
    def choice(self, weights: Weights) -> dict[str, Any]:
        """The fields that name adapters."""

    @abstractmethod
    def add_adapter(self, source: int, number: int) -> None:
        """Put a copy of adapter `source` where the server finds its adapters, as `number`."""

    @abstractmethod
    def remove_adapter(self, number: int) -> None:
        """Undo `add_adapter`."""


class Gossamer(Server):
    """`gossamer serve`: adapters are models with names."""

    name = "gossamer"

    def __init__(self, model: Path, adapters: Path, threads: int, running: int) -> None:
        self._model, self._adapters = model.name, adapters
        super().__init__(
            [
                *(sys.executable, "-m", "gossamer.cli.main", "serve"),
                *("--model", str(model), "--adapters", str(adapters)),
                *("--threads", str(threads), "--max-running", str(running)),
                "--no-prefix-cache",
            ]
        )

    def __enter__(self) -> "Gossamer":
        super().__enter__()
        models = httpx.get(f"{self.url}/v1/models", timeout=60).json()["data"]
        (self._model,) = (entry["id"] for entry in models if not entry.get("parent"))
        return self

    def choice(self, weights: Weights) -> dict[str, Any]:
        parts = [
            f"adapter-{i}" if weight == 1 else f"adapter-{i}:{weight}"
            for i, weight in weights.items()
        ]
        return {"model": "+".join(parts) or self._model}

    def add_adapter(self, source: int, number: int) -> None:
        target = self._adapters / f"adapter-{number}"
        shutil.copytree(self._adapters / f"adapter-{source}", target)

    def remove_adapter(self, number: int) -> None:
        shutil.rmtree(self._adapters / f"adapter-{number}", ignore_errors=True)


class LlamaCpp(Server):
    """llama.cpp's `llama-server`: adapters are files given at the start, requests give weights."""

    name = "llama.cpp"

    def __init__(
        self,
        binary: Path,
        model: Path,
        adapters: Path,
        count: int,
        threads: int,
        context: int,
        more: Sequence[str] = (),
    ) -> None:
        self._adapters = adapters
        files = [str(adapters / f"adapter-{number}.gguf") for number in range(count)]
        super().__init__(
            [
                *(str(binary), "--model", str(model), "--lora", ",".join(files)),
                *("--threads", str(threads), "--threads-batch", str(threads)),
                *("--parallel", str(count), "--ctx-size", str(count * context)),
                *("--no-kv-unified", "--cont-batching", "--cache-ram", "0"),
                *more,
            ]
        )

    def body(self, prompt: Sequence[int], weights: Weights, new_tokens: int) -> dict[str, Any]:
        # top_k 1 spares it sorting the vocabulary for an answer that is greedy anyway.
        more = {"cache_prompt": False, "top_k": 1}
        return super().body(prompt, weights, new_tokens) | more

    def choice(self, weights: Weights) -> dict[str, Any]:
        # Without the field, all adapters given at the start apply at once.
        listed = [{"id": i, "scale": weight} for i, weight in weights.items()]
        return {"lora": listed or [{"id": 0, "scale": 0.0}]}

    def add_adapter(self, source: int, number: int) -> None:
        target = self._adapters / f"adapter-{number}.gguf"
        shutil.copy(self._adapters / f"adapter-{source}.gguf", target)

    def remove_adapter(self, number: int) -> None:
        (self._adapters / f"adapter-{number}.gguf").unlink(missing_ok=True)

    def version(self) -> str:
        """As the binary tells it."""
        told = subprocess.run([self.command[0], "--version"], capture_output=True, text=True)
        return " ".join((told.stderr + told.stdout).split("\n")[0].split())


def message(response_text: str) -> str:
    """The message of an error in OpenAI's shape, or the text itself, on one line."""
    try:
        text = str(json.loads(response_text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = response_text
    return " ".join(text.split())[:120]
