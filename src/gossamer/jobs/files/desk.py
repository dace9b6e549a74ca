"""Has uploads checked, one after the other, each by a process of its own with limits."""

import json
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import GossamerError, JobError
from gossamer.files import write_whole
from gossamer.jobs.files import REPORT_VERSION
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.names import has_rows
from gossamer.jobs.process import talking_to
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import FileRecord

log = logging.getLogger("gossamer.jobs")

MAX_SECONDS = 300
MAX_BYTES = 4 * 2**30
MAX_REPORT_BYTES = 4 * 2**20

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
        self._processes = set[subprocess.Popen[str]]()
        self._progress: dict[Path, Report] = {}
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
        for process in list(self._processes):
            with suppress(OSError):
                process.kill()
        if self._thread.is_alive():
            self._thread.join(10)

    def report(self, record: FileRecord) -> Report | None:
        """What the check of a file has found; None: it has not run, or there was nothing to do."""
        return _stored(self._place(record))

    def progress(self, record: FileRecord) -> Report | None:
        """What has been found up to now of a file that is being checked: `complete` is false."""
        return self._progress.get(self._place(record))

    def overlap(self, record: FileRecord, held_out: FileRecord) -> Report:
        """What a file has in common with another, of which nothing should be learnt: see
        `likeness.overlap`. Waits for a process if that is new; raises `JobError`."""
        other = f"{held_out.sha256[:16]}{_ending(held_out)}"
        place = self._blobs.report(record.sha256, f"{_ending(record)}.{other}")
        found = _stored(place)
        if found is None:
            question = {
                "path": str(self._blobs.path(record.sha256)),
                "name": f"file{_ending(record)}",
                "held_out": str(self._blobs.path(held_out.sha256)),
                "held_out_name": f"file{_ending(held_out)}",
            }
            found = {"version": REPORT_VERSION, **self._ask(question, lambda answer: None)}
            with suppress(GossamerError, OSError):
                write_whole(place, json.dumps(found), mode=0o600)
        if "error" in found:
            raise JobError(
                f"the files cannot be compared: {found['error']}", code="files_not_compared"
            )
        return found

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
        place, name = self._place(record), f"file{_ending(record)}"
        try:
            report = self.check(self._blobs.path(record.sha256), name, place)
        finally:
            self._progress.pop(place, None)
        if self._is_closed:
            return None
        with suppress(GossamerError, OSError):
            write_whole(place, json.dumps(report), mode=0o600)
        return report

    def _place(self, record: FileRecord) -> Path:
        return self._blobs.report(record.sha256, _ending(record))

    def check(self, path: Path, name: str, place: Path | None = None) -> Report:
        """Report on the rows of the file `path`, which its owner calls `name`; reports on its first
        rows are kept for `place` meanwhile."""

        def tell(report: Report) -> None:
            if place is not None:
                self._progress[place] = report

        return self._ask({"path": str(path), "name": name}, tell)

    def _ask(self, question: dict[str, Any], tell: Callable[[Report], None]) -> Report:
        """The last answer of a process; the others are told as they come."""
        limit = self._limits["max_seconds"]
        with talking_to("gossamer.jobs.files.check") as process:
            self._processes.add(process)
            is_late = threading.Event()

            def end(process: "subprocess.Popen[str]" = process) -> None:
                is_late.set()
                process.kill()

            timer = threading.Timer(limit, end)
            timer.start()
            try:
                last = None
                for answer in answers(process, {**question, **self._limits}, MAX_REPORT_BYTES):
                    if last is not None:
                        tell(last)
                    last = answer
            finally:
                timer.cancel()
                self._processes.discard(process)
        if is_late.is_set():
            return _refusal(f"the file could not be read within {limit} s; split it")
        return _refusal(_why(process.returncode)) if process.returncode or last is None else last


def answers(
    process: "subprocess.Popen[str]", question: Mapping[str, Any], max_bytes: int
) -> Iterator[Report]:
    """Put one question to a process, and yield the objects that it answers, each a line of JSON of
    at most `max_bytes`, until it ends or says something else."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.write(f"{json.dumps(question)}\n")
        process.stdin.close()
    while line := process.stdout.readline(max_bytes):
        try:
            answer: Report = json.loads(line)
        except ValueError:
            return
        yield answer


def _stored(place: Path) -> Report | None:
    try:
        found: Report = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("version") == REPORT_VERSION else None


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
    return {"version": REPORT_VERSION, "error": reason}


def _why(code: int) -> str:
    if code < 0:
        return f"reading the file was ended by the system (signal {-code}): it is too large or odd"
    return "the file could not be read; save it again as .jsonl"
