"""Starts the process of a job, hears what it reports, and stops it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from gossamer import errors
from gossamer.errors import GossamerError, TrainingError
from gossamer.training.comparison.folder import JobFolder
from gossamer.training.comparison.jobs import Job

Event = dict[str, Any]
_WORKER = "gossamer.training.comparison.worker"


class ComparisonInterrupted(KeyboardInterrupt):
    """The comparison was stopped by a signal; what was done is kept."""

    def __init__(self, output: Path) -> None:
        super().__init__(f"interrupted; the same command with --output {output} goes on from here")
        self.output = output


def run_job(job: Job, folder: JobFolder, hear: Callable[[Event], None]) -> dict[str, Any]:
    """Do `job` in a process of its own, unless it is done already; returns its result.

    Raises the `GossamerError` that the process met, or `TrainingError` if it died without a word.
    On Ctrl-C the process is asked to finish its step and save; on a second one it is killed.
    """
    done = folder.outcome()
    if done is not None:
        return done
    job.write(folder)
    # A session of its own: a terminal sends Ctrl-C to every process of the group.
    with (
        folder.log.open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", _WORKER, str(folder.path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            failure = _listen(process.stdout, hear)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            _listen(process.stdout, hear)
            raise
        except BaseException:
            process.kill()
            raise
        finally:
            _end(process)
    return _outcome(folder, process.returncode, failure)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C inside; outside the main thread nothing changes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(stream: IO[str], hear: Callable[[Event], None]) -> Event | None:
    """Pass events on until the process ends; returns its last word if it failed."""
    failure = None
    for line in stream:
        try:
            event: Event = json.loads(line)
        except ValueError:
            # Cut off by a kill.
            continue
        if event["event"] == "failed":
            failure = event
        else:
            hear(event)
    return failure


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _outcome(folder: JobFolder, code: int, failure: Event | None) -> dict[str, Any]:
    done = folder.outcome()
    if done is not None:
        return done
    if failure is not None:
        known = getattr(errors, failure["error"], TrainingError)
        raise known(failure["reason"])
    if code == -signal.SIGKILL:
        raise TrainingError("its process was killed, probably because the machine's memory ran out")
    if code in (130, -signal.SIGTERM, -signal.SIGINT):
        raise KeyboardInterrupt
    raise GossamerError(f"its process ended with code {code}; see {folder.log}")
