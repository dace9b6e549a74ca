"""The process that makes estimates: it imports training once, answers, and ends when idle."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from gossamer.errors import StorageError
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.supervise.launch import environment

log = logging.getLogger("gossamer.jobs")

_MODULE = "gossamer.jobs.worker.estimate"
MAX_SECONDS = 300.0
IDLE_SECONDS = 300.0
_MAX_QUESTIONS = 200
"""After this number a new process is started, since libraries keep some memory of each."""
_LOG_BYTES = 2000


class EstimateProcess:
    """One process, started at the first question. From any thread; questions take turns."""

    def __init__(
        self,
        settings: JobsSettings,
        *,
        max_seconds: float = MAX_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._settings = settings
        self._max_seconds, self._idle_seconds = max_seconds, idle_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None
        self._asked = 0
        self._idle: threading.Timer | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None: there is none."""
        process = self._process
        return None if process is None else process.pid

    def ask(self, folder: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """What the process says of the settings `run`, whose data lie below `folder`.

        Raises `StorageError` if no process can be started.
        """
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return self._answer({"folder": folder, "run": dict(run)})
            finally:
                if self._asked >= _MAX_QUESTIONS:
                    self._end()
                self._idle = threading.Timer(self._idle_seconds, self._end_idle, [self._asked])
                self._idle.daemon = True
                self._idle.start()

    def close(self) -> None:
        """End the process, and a question that it is at; the next one starts another process."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _end_idle(self, asked: int) -> None:
        with self._lock:
            if self._asked == asked:
                self._end()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._max_seconds, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        self._asked += 1
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        said = self._end()
        if late.is_set():
            return {"error": f"no estimate within {self._max_seconds:g} seconds", "kind": "unknown"}
        log.warning("the estimate's process failed: %s", said)
        return {"error": "the estimate's process failed", "kind": "unknown"}

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, self._settings.jobs_share],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, **environment(self._settings)},
                start_new_session=True,
            )
        except OSError as error:
            raise StorageError(f"no estimate can be made: {error}") from error
        return self._process

    def _end(self) -> str:
        """End the process; returns the end of what it has said."""
        process, errors = self._process, self._errors
        self._process = self._errors = None
        self._asked = 0
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    if stream is not None:
                        stream.close()
            process.wait()
        if errors is None:
            return ""
        with errors:
            errors.seek(max(0, errors.seek(0, 2) - _LOG_BYTES))
            return errors.read().decode(errors="replace")
