"""Jobs as the page's stream asks for them."""

from typing import Any

from gossamer.errors import JobError
from gossamer.jobs.process import here
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.scoped import PageAsk
from gossamer.serving.keys import Caller
from gossamer.studio.context import scope_of
from gossamer.studio.view.jobs import shown_jobs
from gossamer.studio.view.lines import RunLines
from gossamer.studio.view.work import JobResults

MAX_JOBS = 500


class StoredNews:
    """News of jobs, from the database and the runs."""

    def __init__(self, store: JobStore, lines: RunLines, results: JobResults) -> None:
        self._store = store
        self._lines = lines
        self._results = results

    def jobs(self, caller: Caller) -> list[dict[str, Any]]:
        """The newest jobs of the caller, as the API shows them."""
        if not (caller.may_train or caller.is_admin):
            return []
        page = self._store.jobs.page(scope_of(caller), PageAsk(limit=MAX_JOBS))
        return shown_jobs(self._store, self._lines, self._results, page.data)

    def workers(self) -> list[int]:
        """The numbers of the processes of this machine that train now."""
        place = here()
        running = self._store.jobs.of_statuses("running")
        return [job.pid for job in running if job.pid is not None and job.place == place]

    def metrics(self, caller: Caller, job_id: str) -> tuple[str, list[dict[str, Any]]]:
        """The lines of a job, and the attempt they are of: a new one may have cut some."""
        try:
            job = self._store.jobs.get(scope_of(caller), job_id)
        except JobError:
            return "", []
        return str(job.attempt), self._lines.of(job.id)
