"""What a job would take: asked of a process that imports training, which the server does not.

A job that would be the only one begins without being asked for; those that wait are asked for
meanwhile, and running ones if others may run beside them. A comparison is long, so that it is
always asked for: what all its runs take is what its owner wants to know.
"""

import logging
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gossamer.errors import JobError, StorageError
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.kinds.compare import estimate_comparison, rows_of
from gossamer.jobs.queue.needs import never_fits
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise.estimate_process import EstimateProcess
from gossamer.jobs.supervise.needs_of_results import needs_of_export, needs_of_verification
from gossamer.jobs.supervise.room import host_memory, measure

log = logging.getLogger("gossamer.jobs")

_OF_RESULTS = {"verify": needs_of_verification, "export": needs_of_export}


class Estimator:
    """Makes estimates: the supervisor's, and those that are shown beforehand. From any thread, but
    not for the event loop."""

    def __init__(self, store: JobStore, settings: JobsSettings) -> None:
        self._store = store
        self._settings = settings
        self._process = EstimateProcess(settings)

    def ask(self, model: str, run: Mapping[str, Any], rows: Mapping[str, str]) -> dict[str, Any]:
        """What a run with the settings `run` on `model` would take.

        `rows` are digests of blobs, by the names that the settings give them. The answer has
        memory, disk and adapter in bytes, rows, tokens and steps, and `seconds`, which is None
        until a run of that kind was measured here; until then processors have `seconds_range`, the
        least and the most that it may take, which is None afterwards. Raises `JobError` for a run
        that cannot be, with the reason that the run would give, and `StorageError` if no process
        can be started.
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
        guessed = answer.get("seconds_range") if speed is None else None
        return {**answer, "seconds": seconds, "seconds_range": guessed}

    def of_job(self, job: JobRecord) -> dict[str, Any]:
        """What a job would take; raises as `ask`."""
        if job.kind == "compare":
            return self._of_comparison(job)
        if job.kind in _OF_RESULTS:
            return _OF_RESULTS[job.kind](job, self._settings.folder)
        return self._of_run(job)

    def close(self) -> None:
        """End the process that was asked, if there is one."""
        self._process.close()

    def _of_run(self, job: JobRecord) -> dict[str, Any]:
        run = job.resolved["run"]
        files = ((job.training_file, run["data"]), (job.validation_file, run["eval_data"]))
        return self.ask(job.model, run, self._digests(files))

    def _of_comparison(self, job: JobRecord) -> dict[str, Any]:
        found = job.resolved["compare"]
        rows = self._digests([(job.training_file, rows_of(found))])
        return estimate_comparison(found, lambda run: self.ask(job.model, run, rows))

    def _digests(self, files: Iterable[tuple[str | None, str | None]]) -> dict[str, str]:
        return {
            name: self._store.files.get(EVERYONE, file_id).sha256
            for file_id, name in files
            if file_id and name is not None
        }

    def _answer(self, run: Mapping[str, Any], rows: Mapping[str, str]) -> dict[str, Any]:
        try:
            with tempfile.TemporaryDirectory(prefix="gossamer-estimate-") as folder:
                _link(self._settings.folder, Path(folder), rows)
                return self._process.ask(folder, run)
        except OSError as error:
            raise StorageError(f"no estimate can be made: {error}") from error


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
