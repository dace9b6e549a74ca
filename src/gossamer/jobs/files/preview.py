"""Has rows shown as the model sees them, by one process that stays while it is asked."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import JobError
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.store.records import FileRecord

MAX_SECONDS = 60.0
"""For one answer; the first waits for a tokenizer too."""
IDLE_SECONDS = 600.0
"""Without a question for so long, the process is ended."""
MAX_BYTES = 6 * 2**30
MAX_ANSWER_BYTES = 16 * 2**20

Answer = dict[str, Any]


class Preview:
    """Shows rows of files for one base model; from any thread, not for the event loop."""

    def __init__(self, blobs: BlobFolder, model: Path) -> None:
        """`model` is the folder of the base model, whose tokenizer and template show rows."""
        self._blobs = blobs
        self._model = model
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._last = 0.0

    def rows(self, record: FileRecord, *, start: int, count: int, train_on: str) -> Answer:
        """Show rows of a file; see `jobs.files.row_reader`. Raises `JobError`."""
        question = {
            "path": str(self._blobs.path(record.sha256)),
            "name": f"file{PurePosixPath(record.filename).suffix.lower()}",
            "start": start,
            "count": count,
            "train_on": train_on,
        }
        with self._lock:
            answer = self._ask(question)
            self._last = time.monotonic()
        if "error" in answer:
            raise JobError(str(answer["error"]), code="rows_not_shown")
        return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, question: Answer) -> Answer:
        """The answer of the process, which is started if there is none; it is ended if it is slow
        or says nothing, for a file that was too much for it must not hurt the next one."""
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            if self._process is not None:
                self._process.kill()

        timer = threading.Timer(MAX_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
                greeting = self._exchange({"model": str(self._model), "max_bytes": MAX_BYTES})
                if greeting is not None and "error" in greeting:
                    self._end()
                    return greeting
            answer = self._exchange(question)
        finally:
            timer.cancel()
        if answer is None:
            self._end()
            why = f"took longer than {MAX_SECONDS:g} s" if is_late.is_set() else "were too much"
            return {"error": f"the rows of this file {why} to be shown"}
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "gossamer.jobs.files.row_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    def _exchange(self, question: Answer) -> Answer | None:
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(f"{json.dumps(question)}\n")
            stdin.flush()
            answer: Answer = json.loads(stdout.readline(MAX_ANSWER_BYTES))
        except (OSError, ValueError):
            return None
        return answer

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        """End a process that no one has asked for long."""
        while process.poll() is None:
            time.sleep(min(IDLE_SECONDS / 10, 30.0))
            with self._lock:
                if process is self._process and time.monotonic() > self._last + IDLE_SECONDS:
                    self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                assert stream is not None
                stream.close()
