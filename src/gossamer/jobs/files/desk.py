"""Has uploads checked, one after the other, each by a process of its own with limits."""

import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import GossamerError
from gossamer.files import write_whole
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.names import has_rows
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import FileRecord

log = logging.getLogger("gossamer.jobs")

MAX_SECONDS = 300
MAX_BYTES = 4 * 2**30
MAX_REPORT_BYTES = 4 * 2**20
VERSION = 1
"""The version of reports that are used again; see `report`, which this process does not import."""

Report = dict[str, Any]


class Desk:
    """Checks files in the background until it is closed."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobFolder,
        *,
        max_seconds: int = MAX_SECONDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = {"max_seconds": max_seconds, "max_bytes": max_bytes}
        self._wake = threading.Event()
        self._is_closed = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="gossamer-desk", daemon=True)

    def start(self) -> None:
        """Begin with the files that were left unchecked before."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new file."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, and a check that goes on; its file is checked at the next start."""
        self._is_closed = True
        self._wake.set()
        if (process := self._process) is not None:
            with suppress(OSError):
                process.kill()
        if self._thread.is_alive():
            self._thread.join(10)

    def report(self, record: FileRecord) -> Report | None:
        """What the check of a file has found; None: it has not run, or there was nothing to do."""
        try:
            found: Report = json.loads(self._place(record).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("version") == VERSION else None

    def _run(self) -> None:
        while not self._is_closed:
            self._wake.wait()
            self._wake.clear()
            try:
                for record in self._store.files.unchecked():
                    if self._is_closed:
                        return
                    self._judge(record)
            except Exception:
                # A database that is busy or a disk that is full: at the next file again.
                log.exception("files could not be checked")

    def _judge(self, record: FileRecord) -> None:
        if not has_rows(record.purpose):
            self._store.files.set_status(record.id, "processed")
            return
        report = self.report(record) or self._check(record)
        if report is None:
            return
        error = report.get("error")
        if error is not None:
            self._store.files.set_status(record.id, "error", str(error))
        else:
            self._store.files.set_status(record.id, "processed", _remark(report))
        self._store.jobs.judge_files()

    def _check(self, record: FileRecord) -> Report | None:
        # The report may be that of another tenant's file with the same bytes: it says no name.
        name = f"file{_ending(record)}"
        report = self.check(self._blobs.path(record.sha256), name)
        if self._is_closed:
            return None
        with suppress(GossamerError, OSError):
            write_whole(self._place(record), json.dumps(report), mode=0o600)
        return report

    def _place(self, record: FileRecord) -> Path:
        return self._blobs.report(record.sha256, _ending(record))

    def check(self, path: Path, name: str) -> Report:
        """Report on the rows of the file `path`, which its owner calls `name`."""
        limit = self._limits["max_seconds"]
        question = json.dumps({"path": str(path), "name": name, **self._limits})
        with subprocess.Popen(
            [sys.executable, "-m", "gossamer.jobs.files.check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        ) as process:
            self._process = process
            try:
                answer, _ = process.communicate(f"{question}\n", timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                return _refusal(f"the file could not be read within {limit} s; split it")
            finally:
                self._process = None
        try:
            found: Report = json.loads(answer[:MAX_REPORT_BYTES])
        except ValueError:
            return _refusal(_why(process.returncode))
        return found


def _ending(record: FileRecord) -> str:
    return PurePosixPath(record.filename).suffix.lower()


def _remark(report: Report) -> str | None:
    rows, problems = report.get("rows"), report.get("problems")
    if not isinstance(rows, dict) or not isinstance(problems, list) or not problems:
        return None
    first = problems[0]
    return (
        f"{rows['bad']} of {rows['read']} rows cannot be used; the first is {report['unit']} "
        f"{first['row']}: {first['reason']}"
    )


def _refusal(reason: str) -> Report:
    return {"version": VERSION, "error": reason}


def _why(code: int) -> str:
    if code < 0:
        return f"reading the file was ended by the system (signal {-code}): it is too large or odd"
    return "the file could not be read; save it again as .jsonl"
