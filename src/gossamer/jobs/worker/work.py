"""The steps of one attempt, in order.

1. Take the lock of the job's folder. The kernel frees it when a process dies, however; so two
   workers are never in one run folder, whatever the database says. The wait is bounded.
2. Register: the row gets this process, if it still is at this attempt. The heartbeat begins.
3. If the job is decided (`outcome.json`), go to 6.
4. Do the work of the job's kind (`kinds`), or go on where the former worker has left it.
5. Write the outcome (`outcome`): success, or an error that would come again.
6. Tell the database, and make the link.

When asked to stop (SIGTERM), the work saves where it is, and the job is given back with what its
owner wants of it. When the job was lost, this process ends and says nothing.
"""

import logging
import signal
import sys
import time
import traceback
from types import FrameType

from filelock import FileLock, Timeout

from gossamer.errors import GossamerError, StorageError
from gossamer.files import disk_trouble
from gossamer.jobs.outcome import finish, read_outcome, write_outcome
from gossamer.jobs.process import ProcessIdentity
from gossamer.jobs.run_files import saved_step
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.worker.failures import told, unexpected
from gossamer.jobs.worker.heartbeat import Heartbeat
from gossamer.jobs.worker.kinds import work_of
from gossamer.jobs.worker.listener import JobLostError
from gossamer.jobs.worker.prompt_store import PromptStore
from gossamer.jobs.worker.surroundings import give_way
from gossamer.jobs.worker.task import JobTask, KindOfWork

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
    stop = StopSignal()
    signal.signal(signal.SIGTERM, stop)
    store = PromptStore.join(settings)
    give_way(settings)
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
            work = work_of(JobTask(self._store, self._settings, record, self._attempt))
            outcome = read_outcome(self.job) or self._decide(work)
            self._finish(work, outcome)
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

    def _decide(self, work: KindOfWork) -> JobOutcome:
        """Work to the end; what is decided is on the disk when this returns."""
        try:
            outcome = work.carry_out()
        except (JobLostError, StorageError):
            raise
        except GossamerError as error:
            outcome = JobOutcome(error=told(error, work.task.record))
        except Exception as error:
            trouble = disk_trouble(error)
            if trouble is not None:
                raise StorageError(trouble) from error
            traceback.print_exc()
            outcome = JobOutcome(error=unexpected(error))
        self._stop.shield()
        write_outcome(self.job, outcome)
        return outcome

    def _finish(self, work: KindOfWork, outcome: JobOutcome) -> None:
        """Tell of the outcome; each step may have been done by a former attempt."""
        self._stop.shield()
        self._heartbeat.stop()
        if not finish(self._store, self._folder, self._id, self._attempt):
            raise JobLostError(self._id)
        if outcome.error is None:
            work.ended()
