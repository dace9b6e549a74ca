"""The steps of one attempt, in order.

1. Take the lock of the job's folder. The kernel frees it when a process dies, however; so two
   workers are never in one run folder, whatever the database says. The wait is bounded.
2. Register: the row gets this process, if it still is at this attempt. The heartbeat begins.
3. If the job is decided (`outcome.json`), go to 6.
4. Train, or go on from the last checkpoint; unless `run.yaml` says that this is done.
5. Write the outcome (`outcome`): success, or an error that would come again.
6. Tell the database, and make the link.

When asked to stop (SIGTERM), the run saves after its step, and the job is given back with what its
owner wants of it. When the job was lost, this process ends and says nothing.
"""

import logging
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from gossamer.adapters.inspect import digest
from gossamer.adapters.layout import CONFIG_FILE
from gossamer.basemodel.files import fingerprint
from gossamer.errors import (
    BaseModelError,
    DataError,
    GossamerError,
    StorageError,
    TrainingError,
    UsageError,
    one_line,
)
from gossamer.files import disk_trouble
from gossamer.jobs.outcome import finish, keep_figures, read_outcome, write_outcome
from gossamer.jobs.process import ProcessIdentity
from gossamer.jobs.run_files import saved_step
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.worker.heartbeat import Heartbeat
from gossamer.jobs.worker.listener import JobListener, JobLostError
from gossamer.jobs.worker.surroundings import give_way, machine_name, num_threads
from gossamer.training.outputs.run_folder import is_run
from gossamer.training.outputs.run_record import FILE, read_config
from gossamer.training.settings import RunSettings

log = logging.getLogger("gossamer.jobs")

DONE, RELEASED, LOST = 0, 75, 76
"""Exit codes: the job is decided; it was given back; it belongs to another attempt."""
_LOCK_PATIENCE = 120.0
"""Seconds to wait for the former worker of the job to end."""


class StopSignal:
    """SIGTERM as an exception; while shielded it changes nothing.

    A run has a handler of its own while it trains: it saves first.
    """

    def __init__(self) -> None:
        self._is_shielded = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._is_shielded:
            raise KeyboardInterrupt

    def shield(self) -> None:
        """From now on let the process end by itself: what is left to do takes a moment."""
        self._is_shielded = True


def work(settings: JobsSettings, job_id: str, attempt: int) -> int:
    """Carry out an attempt of a job; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    give_way(settings)
    stop = StopSignal()
    signal.signal(signal.SIGTERM, stop)
    store = JobStore.join(settings)
    one = Attempt(store, settings, job_id, attempt, stop)
    try:
        with FileLock(one.job.lock, timeout=_LOCK_PATIENCE):
            return one.carry_out()
    except Timeout:
        log.warning("another worker holds %s", one.job.lock)
        return LOST
    except KeyboardInterrupt:
        # Before it had begun.
        return one.give_back()
    finally:
        store.close()


class Attempt:
    """One attempt of one job, by a process that has the job's folder to itself."""

    def __init__(
        self,
        store: JobStore,
        settings: JobsSettings,
        job_id: str,
        attempt: int,
        stop: StopSignal,
    ) -> None:
        self._store = store
        self._settings = settings
        self._id = job_id
        self._attempt = attempt
        self._stop = stop
        self._folder = settings.folder
        self._heartbeat = Heartbeat(store, settings, job_id, attempt)
        self.job = self._folder.job(job_id)

    def carry_out(self) -> int:
        """Do what is left to do; returns the exit code."""
        record = self._register()
        if record is None:
            log.warning("attempt %d of %s is over before it began", self._attempt, self._id)
            return LOST
        self._heartbeat.start()
        try:
            outcome = read_outcome(self.job) or self._decide(record)
            self._finish(record, outcome)
            return DONE
        except JobLostError:
            return LOST
        except KeyboardInterrupt:
            return self.give_back()
        except StorageError as error:
            # No fault of the job: it goes on when the disk, or the database, is well again.
            log.exception("the attempt ends")
            return self.give_back(str(error))
        finally:
            self._heartbeat.stop()

    def give_back(self, trouble: str | None = None) -> int:
        """Let the job become what its owner wants of it, and end; returns the exit code."""
        self._stop.shield()
        self._heartbeat.stop()
        why = trouble or "the server stopped it"
        if self._heartbeat.is_orphan:
            why = f"no server has run for {self._settings.orphan_seconds / 60:g} minutes"
        status = self._store.attempts.release(
            self._id,
            self._attempt,
            step=saved_step(self.job.run),
            why=why,
            max_deaths=None if trouble is None else self._settings.max_deaths,
        )
        return LOST if status is None else RELEASED

    def _register(self) -> JobRecord | None:
        own = ProcessIdentity.own()
        return self._store.attempts.register(
            self._id,
            self._attempt,
            place=own.place,
            pid=own.pid,
            pid_started=own.started,
            lease_until=time.time() + self._settings.lease_seconds,
        )

    def _decide(self, record: JobRecord) -> JobOutcome:
        """Train to the end; what is decided is on the disk when this returns."""
        try:
            outcome = self._train(record)
        except (JobLostError, StorageError):
            raise
        except GossamerError as error:
            outcome = JobOutcome(error=_told(error))
        except Exception as error:
            trouble = disk_trouble(error)
            if trouble is not None:
                raise StorageError(trouble) from error
            traceback.print_exc()
            outcome = JobOutcome(error=_unexpected(error))
        self._stop.shield()
        write_outcome(self.job, outcome)
        return outcome

    def _train(self, record: JobRecord) -> JobOutcome:
        from gossamer.training.run import run

        self.job.data.mkdir(exist_ok=True)
        # The run's record then holds no path of this machine, and the folder may be moved.
        os.chdir(self.job.root)
        settings = RunSettings.parse(record.resolved["run"], where="job")
        self._link_data(record, settings)
        output = Path(settings.output)
        if not is_run(output):
            # A worker was killed before it had written what the run is.
            shutil.rmtree(output, ignore_errors=True)
        if _result(output) is None:
            listener = JobListener(self._store.attempts, self._id, self._attempt)
            run(settings, resume=is_run(output), overwrite=False, listener=listener)
        return self._success(output)

    def _link_data(self, record: JobRecord, settings: RunSettings) -> None:
        """Give the rows names that tell their format."""
        for file_id, name in (
            (record.training_file, settings.data),
            (record.validation_file, settings.eval_data),
        ):
            if file_id is not None and name is not None and not Path(name).is_symlink():
                blob = self._folder.blob(self._store.files.get(EVERYONE, file_id).sha256)
                Path(name).symlink_to(os.path.relpath(blob, Path(name).parent.absolute()))

    def _success(self, output: Path) -> JobOutcome:
        result = _result(output) or {}
        return JobOutcome(
            trained_tokens=int(result["tokens"]),
            digest=_digest(output),
            bytes=sum(file.stat().st_size for file in output.glob("*.safetensors")),
            result_file=keep_figures(self._folder, self.job),
        )

    def _finish(self, record: JobRecord, outcome: JobOutcome) -> None:
        """Tell of the outcome; each step may have been done by a former attempt."""
        self._stop.shield()
        self._heartbeat.stop()
        if not finish(self._store, self._folder, self._id, self._attempt):
            raise JobLostError(self._id)
        if outcome.error is None:
            self._note_speed(record)

    def _note_speed(self, record: JobRecord) -> None:
        values, sections = read_config(self.job.run / FILE)
        result = sections["result"]
        self._store.speeds.add(
            machine_name(),
            record.model[:255],
            str(values["method"]),
            str(values["dtype"]),
            num_threads(),
            seconds_per_token=result["seconds"] / max(1, result["tokens"]),
        )


def _result(output: Path) -> dict[str, Any] | None:
    """The result of a run that is over."""
    return read_config(output / FILE)[1].get("result") if is_run(output) else None


def _digest(run: Path) -> str:
    """The digest of the adapter that a run left; of a whole model, its fingerprint."""
    return digest(run) if (run / CONFIG_FILE).is_file() else fingerprint(run)


def _told(error: GossamerError) -> dict[str, Any]:
    """The error of a job that would fail again."""
    code, param = "training_failed", None
    if isinstance(error, DataError):
        code, param = "invalid_file", "training_file"
    elif isinstance(error, BaseModelError):
        code, param = "base_model_unusable", "model"
    elif isinstance(error, UsageError):
        code = "invalid_value"
    elif isinstance(error, TrainingError) and "not enough memory" in str(error):
        code = "out_of_memory"
    return {"code": code, "message": str(error), "param": param}


def _unexpected(error: Exception) -> dict[str, Any]:
    first = next(iter(str(error).splitlines()), "")
    message = f"{type(error).__name__}: {first[:200]}".rstrip(": ")
    return {"code": "internal_error", "message": one_line(message), "param": None}
