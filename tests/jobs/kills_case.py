"""Kills workers and servers at random moments, and looks at what is left when all jobs are over."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from contextlib import closing, contextmanager, suppress

import psutil
from job_helpers import messages
from worker_case import TRAINING, add_training, figures_of

from gossamer.jobs.store import JobStore
from gossamer.jobs.store.scoped import EVERYONE, PageAsk


class Turmoil:
    """Jobs, a server, and somebody who kills both."""

    def __init__(self, zygote, settings, model, folder, *, seed):
        self.settings, self.model, self.folder = settings, model, folder
        self.store = JobStore.open(settings)
        self.kills = {"worker": 0, "server": 0, "both": 0}
        self.hits = 0
        self._zygote = zygote
        self._chance = random.Random(seed)
        self.server = None
        self._kinds = []
        self.jobs = []

    def add_jobs(self, count, **training):
        """Queue jobs of two tenants."""
        for tenant in ("ab" * count)[:count]:
            job = add_training(
                self.store, self.settings, self.model, self.folder, tenant, **training
            )
            self.jobs.append(job)

    def start_server(self):
        self.server = self._zygote.server(self.settings)

    def stop_server(self):
        """End the server as a person does, and wait until it is gone."""
        os.kill(self.server, signal.SIGTERM)
        until(lambda: not is_alive(self.server))

    def kill_once(self):
        """Kill a worker, the server or both; mostly while a job is in progress."""
        if not self._kinds:
            self._kinds = self._chance.sample(["worker", "worker", "server", "both"], 4)
        what = self._kinds.pop()
        if self._chance.random() < 0.8:
            self._wait_for_progress()
        time.sleep(self._chance.uniform(0, 0.3))
        running = [j for j in self.rows() if j.status == "running" and j.pid]
        if what in ("server", "both"):
            kill(self.server)
        for job in running if what in ("worker", "both") else []:
            self.hits += kill(job.pid)
        self.kills[what] += 1
        if what != "worker":
            time.sleep(self._chance.uniform(0, 0.5))
            self.start_server()

    def stop_a_worker_and_the_server(self):
        """Stop both in the middle of a run, but of no transaction; returns their numbers."""
        while True:
            until(lambda: self.is_over or self._at_work())
            if self.is_over:
                # They were too quick.
                self.add_jobs(2)
            for job in self._at_work():
                both = (job.pid, self.server)
                with suppress(ProcessLookupError):
                    signal_all(both, signal.SIGSTOP)
                    running = [(row.id, row.pid) for row in self._at_work()]
                    if self._is_unlocked() and (job.id, job.pid) in running:
                        return both
                    signal_all(both, signal.SIGCONT)

    def _at_work(self):
        return [row for row in self.rows() if row.status == "running" and row.pid]

    def _is_unlocked(self):
        """Whether no process that was stopped keeps SQLite's write lock."""
        with closing(sqlite3.connect(self.settings.folder.database, timeout=1.0)) as base:
            try:
                base.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True

    def copy(self, folder):
        """Copy all data as they are at one moment, for a machine that was started again since.

        All processes stand still meanwhile; returns the jobs and a server, not started, of it.
        """
        while True:
            with self._standing_still() as workers:
                shutil.copytree(self.settings.folder.root, folder, symlinks=True)
            if workers == [job.pid for job in self._at_work()]:
                break
            # One came meanwhile, and may have written while it was copied.
            shutil.rmtree(folder)
        settings = self.settings.model_copy(update={"data_dir": str(folder)})
        with closing(sqlite3.connect(settings.folder.database)) as base:
            for table in ("jobs", "supervisor"):
                base.execute(f"UPDATE {table} SET place = 'before' WHERE place IS NOT NULL")
            base.commit()
        other = Turmoil(self._zygote, settings, self.model, self.folder, seed=0)
        other.jobs = list(self.jobs)
        return other

    @contextmanager
    def _standing_still(self):
        workers = [job.pid for job in self._at_work()]
        stopped = []
        for pid in (self.server, *workers):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
                process = psutil.Process(pid)
                until(lambda process=process: process.status() == psutil.STATUS_STOPPED)
        yield workers
        signal_all(stopped, signal.SIGCONT)

    def wait(self, seconds=240.0):
        """Wait until all jobs are over."""
        until(lambda: all(not j.is_unfinished for j in self.rows()), seconds)

    def close(self):
        """End what still runs."""
        for pid in [self.server, *(j.pid for j in self.rows() if j.status == "running")]:
            if pid is not None:
                kill(pid)
        self.store.close()

    def check(self, whole):
        """All jobs ended once, with the losses and the adapter of the undisturbed run."""
        for job in self.rows():
            assert job.status == "succeeded", (job, messages(self.store, job))
            paths = self.settings.folder.job(job.id)
            assert figures_of(paths.run) == figures_of(whole)
            for name in ("adapter_model.safetensors",):
                assert (paths.run / name).read_bytes() == (whole / name).read_bytes()
            self._check_events(job)
            # What follows the end in the table is done by a worker, or by the server after it.
            link = self.settings.folder.link(job.name)
            until(link.is_symlink)
            assert link.resolve() == paths.run.resolve()
            assert not list(paths.root.glob(".*")), "something is half done"
        models = self.store.models.page(EVERYONE, PageAsk(limit=1000)).data
        assert sorted(m.name for m in models) == sorted(j.name for j in self.rows())
        assert len(list(self.settings.folder.served.iterdir())) == len(self.jobs)
        assert list(self.settings.folder.scratch.iterdir()) == []
        if self.store.database.is_sqlite:
            with self.store.database.read() as session:
                found = session.connection().exec_driver_sql("PRAGMA integrity_check")
                assert found.scalar() == "ok"

    def _check_events(self, job):
        said = messages(self.store, job)
        for once in (f"Created fine-tuning job: {job.id}", "The job has successfully completed"):
            assert said.count(once) == 1, said
        assert said[-1] == "The job has successfully completed"
        steps = [int(m[1]) for m in map(re.compile(r"Checkpoint .* step (\d+)").match, said) if m]
        every = TRAINING["save_every"]
        planned = list(range(every, TRAINING["max_steps"] + 1, every))
        assert [s for s in steps if s % every == 0] == planned, said
        assert len(set(steps)) == len(steps), said

    def rows(self):
        return [self.store.jobs.get(EVERYONE, job.id) for job in self.jobs]

    def _wait_for_progress(self):
        """Wait until some run has got on by a few lines."""

        def lines():
            files = [self.settings.folder.job(j.id).run / "metrics.jsonl" for j in self.jobs]
            return sum(len(f.read_bytes().splitlines()) for f in files if f.exists())

        before, more = lines(), self._chance.randint(1, 5)
        with suppress(AssertionError):
            until(lambda: lines() >= before + more or not self._is_busy(), 20.0)

    def _is_busy(self):
        return any(job.is_unfinished for job in self.rows())

    def is_at_work(self):
        """Whether some worker has begun."""
        return bool(self._at_work())

    @property
    def is_over(self):
        """Whether all jobs have ended."""
        return not self._is_busy()


def until(condition, seconds=60.0):
    """Wait for something that must come; the time is for a machine that is very busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def signal_all(pids, number):
    for pid in pids:
        os.kill(pid, number)


def kill(pid):
    """Kill a process; returns whether there was one."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def describe(turmoil):
    """What was done, for the report of a long run."""
    attempts = sum(job.attempt for job in turmoil.rows())
    return json.dumps({**turmoil.kills, "hits": turmoil.hits, "attempts": attempts})
