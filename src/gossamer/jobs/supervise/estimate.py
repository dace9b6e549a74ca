"""What a job would take: asked of a process that imports training, which the server does not.

A job that would be the only one begins without being asked for; those that wait are asked for
meanwhile, and running ones if others may run beside them.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gossamer.errors import JobError, StorageError
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.queue.needs import never_fits
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise.launch import environment
from gossamer.jobs.supervise.room import host_memory, measure

log = logging.getLogger("gossamer.jobs")

_MODULE = "gossamer.jobs.worker.estimate"
MAX_SECONDS = 300.0


class Estimator:
    """Asks for estimates, one process each. Not for the event loop."""

    def __init__(self, store: JobStore, settings: JobsSettings) -> None:
        self._store = store
        self._settings = settings

    def ask(self, model: str, run: Mapping[str, Any], rows: Mapping[str, str]) -> dict[str, Any]:
        """What a run with the settings `run` on `model` would take.

        `rows` are digests of blobs, by the names that the settings give them. The answer has
        memory, disk and adapter in bytes, rows, tokens and steps, and `seconds`, which is None
        until a run of that kind was measured here. Raises `JobError` for a run that cannot be,
        with the reason that the run would give, and `StorageError` if no process can be started.
        """
        answer = self._answer(run, rows)
        if "error" in answer:
            param = "training_file" if answer["kind"] == "invalid_file" else None
            raise JobError(str(answer["error"]), code=str(answer["kind"]), param=param)
        speed = self._store.speeds.find(
            answer.pop("machine"),
            model[:255],
            str(run["method"]),
            answer["dtype"],
            answer.pop("threads"),
        )
        tokens = answer["tokens"] * answer["epochs"]
        seconds = None if speed is None else round(tokens * speed.seconds_per_token, 1)
        return {**answer, "seconds": seconds}

    def of_job(self, job: JobRecord) -> dict[str, Any]:
        """What a job would take; raises as `ask`."""
        run = job.resolved["run"]
        files = ((job.training_file, run["data"]), (job.validation_file, run["eval_data"]))
        rows = {
            name: self._store.files.get(EVERYONE, file_id).sha256
            for file_id, name in files
            if file_id is not None and name is not None
        }
        return self.ask(job.model, run, rows)

    def _answer(self, run: Mapping[str, Any], rows: Mapping[str, str]) -> dict[str, Any]:
        settings = self._settings.model_dump(mode="json", exclude={"database"})
        question = json.dumps({"run": dict(run), "settings": settings})
        try:
            with tempfile.TemporaryDirectory(prefix="gossamer-estimate-") as folder:
                _link(self._settings.folder, Path(folder), rows)
                done = subprocess.run(
                    [sys.executable, "-m", _MODULE],
                    input=question,
                    capture_output=True,
                    text=True,
                    cwd=folder,
                    env={**os.environ, **environment(self._settings)},
                    timeout=MAX_SECONDS,
                )
        except OSError as error:
            raise StorageError(f"no estimate can be made: {error}") from error
        except subprocess.TimeoutExpired:
            return {"error": f"no estimate within {MAX_SECONDS:g} seconds", "kind": "unknown"}
        if done.returncode != 0:
            log.warning("the estimate's process failed: %s", done.stderr[-2000:])
            return {"error": "the estimate's process failed", "kind": "unknown"}
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


class Estimates:
    """Estimates jobs in the background, one after the other."""

    def __init__(self, store: JobStore, settings: JobsSettings, estimator: Estimator) -> None:
        self._store = store
        self._settings = settings
        self._estimator = estimator
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None

    def look(self, jobs: Sequence[JobRecord]) -> None:
        """Begin with the first of `jobs` that has no estimate, unless one is being made."""
        if self._thread is not None and self._thread.is_alive():
            return
        unknown = (job for job in jobs if job.estimate is None and job.id not in self._asked)
        job = next(unknown, None)
        if job is not None:
            self._asked.add(job.id)
            # It may be killed at any time: it only asks.
            self._thread = threading.Thread(target=self._estimate, args=(job,), daemon=True)
            self._thread.start()

    def _estimate(self, job: JobRecord) -> None:
        try:
            found = self._estimator.of_job(job)
        except JobError as error:
            # The run will say the same, with its whole reason.
            log.info("%s has no estimate: %s", job.id, error)
            return
        except Exception:
            log.exception("%s could not be estimated", job.id)
            return
        self._store.jobs.set_estimate(job.id, found)
        room = measure(self._settings)
        reason = never_fits(host_memory(found) or 0, room, self._settings.memory_margin)
        if reason is not None:
            self._store.jobs.refuse(job.id, "capacity_exceeded", reason)


def _link(folder: DataFolder, place: Path, rows: Mapping[str, str]) -> None:
    for name, sha256 in rows.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder.blob(sha256))
