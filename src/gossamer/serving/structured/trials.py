"""Tries forms out in processes of their own, where what hangs or crashes can be killed.

The library bounds much of what a compilation does, but not all: a schema of a few hundred bytes
whose parts meet again and again (`allOf` of references, of multiples) takes time without end, and a
thread that computes cannot be stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import gossamer
from gossamer.errors import EngineStoppedError, ServingError
from gossamer.serving.structured.bounds import FormError

TOO_LARGE = "to compile it takes more memory than is allowed; make it simpler"
COMMAND = (sys.executable, "-m", "gossamer.serving.structured.trial_process")


class FormTrials:
    """Processes that try forms out: as many as there are forms at once, and one that is kept."""

    def __init__(self, special_tokens: Callable[[], Sequence[str]], seconds: float) -> None:
        """`special_tokens` are the texts that grammars may name; `seconds`, what a form may take.

        The first form starts the first process.
        """
        self._special_tokens = special_tokens
        self._seconds = seconds
        self._lock = threading.Lock()
        self._is_open = True
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()

    def check(self, kind: str, text: str) -> None:
        """Try a form out; waits.

        Raises `FormError` for one that cannot be compiled, `TimeoutError` for one that takes too
        long, `EngineStoppedError` after `close`, and `ServingError` if no process can run.
        """
        process = self._take()
        try:
            problem = process.ask({"kind": kind, "text": text}, self._seconds)
        finally:
            self._give_back(process)
        if problem is not None:
            raise FormError(problem)

    def close(self) -> None:
        """End all processes; what is being tried out fails."""
        with self._lock:
            self._is_open = False
            idle, self._idle = self._idle, []
            for process in self._busy:
                # The thread that waits for its answer ends it.
                process.kill()
        for process in idle:
            process.end()

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes that there are."""
        with self._lock:
            return [process.pid for process in (*self._idle, *self._busy)]

    def _take(self) -> "_Process":
        with self._lock:
            self._check_open()
            process = self._idle.pop() if self._idle else None
            if process is not None:
                self._busy.add(process)
                return process
        process = _Process(self._special_tokens())
        with self._lock:
            if self._is_open:
                self._busy.add(process)
                return process
        process.end()
        raise EngineStoppedError("the engine is shutting down")

    def _give_back(self, process: "_Process") -> None:
        with self._lock:
            self._busy.discard(process)
            if self._is_open and not self._idle and process.is_alive:
                self._idle.append(process)
                return
        process.end()

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineStoppedError("the engine is shutting down")


def _search_path() -> list[str]:
    """Where modules are looked for: this package first, wherever it was loaded from."""
    own = str(Path(gossamer.__file__).parents[1])
    return [own, *filter(None, [os.environ.get("PYTHONPATH")])]


class _Process:
    """One process; used by one thread at a time."""

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())},
        )
        self._is_ended = False
        self._write(special_tokens)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, form: dict[str, str], seconds: float) -> str | None:
        """What is wrong with a form, or None."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            self._write(form)
            assert self._process.stdout is not None
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if answer:
            problem: str | None = json.loads(answer)
            return problem
        if self._is_ended:
            raise EngineStoppedError("the engine is shutting down")
        code = self._process.wait()
        if is_late.is_set() or code == -getattr(signal, "SIGXCPU", 0):
            raise TimeoutError
        if code >= 0:
            raise ServingError(f"the process that tries forms out has ended with status {code}")
        return TOO_LARGE

    def kill(self) -> None:
        """Kill the process; what is being tried out fails."""
        self._is_ended = True
        self._process.kill()

    def end(self) -> None:
        """Kill the process, and wait until it has gone."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            # What it has not read any more is of no use.
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()

    def _write(self, value: object) -> None:
        assert self._process.stdin is not None
        # If it has ended, that is seen when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
