"""Has rows shown as the model sees them, by one process that stays while it is asked."""

import json
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import JobError
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.process import talking_to
from gossamer.jobs.store.records import FileRecord

MAX_SECONDS = 60.0
"""For one answer."""
START_SECONDS = 180.0
"""For a process to load the tokenizer, on a machine that is busy."""
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
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
            greeting = self._exchange(
                {"model": str(self._model), "max_bytes": MAX_BYTES}, START_SECONDS
            )
            if "error" in greeting:
                self._end()
                return greeting
        answer = self._exchange(question, MAX_SECONDS)
        if "error" in answer and answer.get("is_over"):
            self._end()
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        process = talking_to("gossamer.jobs.files.row_reader")
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    def _exchange(self, question: Answer, seconds: float) -> Answer:
        """What the process answers; an error with `is_over` if it has not within `seconds`."""
        process, is_late = self._process, threading.Event()
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None

        def end() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(f"{json.dumps(question)}\n")
            process.stdin.flush()
            answer: Answer = json.loads(process.stdout.readline(MAX_ANSWER_BYTES))
        except (OSError, ValueError):
            why = f"took longer than {seconds:g} s" if is_late.is_set() else "were too much"
            return {"error": f"the rows of this file {why} to be shown", "is_over": True}
        finally:
            timer.cancel()
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
