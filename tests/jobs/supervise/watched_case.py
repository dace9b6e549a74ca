"""A supervisor that looks when it is told to, with processes that only wait for workers."""

import subprocess
import sys

from job_helpers import add_job
from kills_case import until
from open_store import open_store
from worker_case import FAR

from gossamer.jobs.process import _started, here
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.supervise.supervisor import Supervisor

NEEDS = {"memory": 1, "disk": 1}
DEAF = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
)
QUICK = {"heartbeat_seconds": 0.05, "lease_seconds": 0.3, "stop_seconds": 0.1}


class Waiting:
    """Starts processes that wait for ever, in the place of workers."""

    def __init__(self, settings, code="print(1, flush=True); import time; time.sleep(99)"):
        self.settings, self.code, self.children = settings, code, []

    def __call__(self, job, attempt):
        job.root.mkdir(exist_ok=True)
        child = subprocess.Popen(
            [sys.executable, "-c", self.code], stdout=subprocess.PIPE, start_new_session=True
        )
        child.stdout.readline()
        self.children.append(child)
        return child

    def end(self):
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()


class Watched:
    """A supervisor that looks when it is told to."""

    def __init__(self, settings, *, code=None, **options):
        self.settings = settings
        self.store = open_store(settings)
        self.waiting = Waiting(settings, code) if code else Waiting(settings)
        self.supervisor = Supervisor(self.store, settings, self.waiting, **options)

    @property
    def children(self):
        return self.waiting.children

    def add(self, tenant="a", **changes):
        return add_job(self.store, tenant, estimate=NEEDS, **changes)

    def row(self, job):
        return self.store.jobs.get(EVERYONE, job.id)

    def register(self, job, child, lease=FAR):
        """Do what a worker does first."""
        assert self.store.attempts.register(
            job.id,
            self.row(job).attempt,
            place=here(),
            pid=child.pid,
            pid_started=_started(child.pid),
            lease_until=lease,
        )

    def look_until(self, condition):
        def look():
            self.supervisor.look()
            return condition()

        until(look)

    def close(self):
        self.waiting.end()
        self.store.close()


def kill(child):
    child.kill()
    child.wait()
