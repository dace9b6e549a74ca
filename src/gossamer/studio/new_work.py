"""Jobs that are no tuning run, made of requests: comparisons, proofs and exports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gossamer.jobs.kinds.compare import (
    ComparisonRequest,
    parse_comparison,
    resolve_comparison,
    rows_of,
)
from gossamer.jobs.kinds.export import ExportRequest, resolve_export
from gossamer.jobs.kinds.verify import VerificationRequest, resolve_verification
from gossamer.jobs.request import parse_body, request_digest
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.jobs.store.records import FileRecord, JobRecord
from gossamer.jobs.store.scoped import Tenant
from gossamer.settings import Settings
from gossamer.studio.new_job import BaseModel, JobMaker, ending_of
from gossamer.studio.trials import ComparisonTrial, Trials

ResultKind = Literal["verify", "export"]


@dataclass(frozen=True, slots=True)
class _ResultWork:
    """What is done with one result: the body that asks for it, and what that means."""

    request: type[Settings]
    resolve: Callable[..., dict[str, Any]]


_OF_RESULTS: dict[ResultKind, _ResultWork] = {
    "verify": _ResultWork(VerificationRequest, resolve_verification),
    "export": _ResultWork(ExportRequest, resolve_export),
}


class WorkMaker:
    """Makes such jobs. Not for the event loop."""

    def __init__(
        self,
        store: JobStore,
        settings: JobsSettings,
        base: BaseModel,
        jobs: JobMaker,
        trials: Trials,
    ) -> None:
        self._store = store
        self._settings = settings
        self._base = base
        self._jobs = jobs
        self._trials = trials

    def compare(
        self, tenant: str, body: Mapping[str, Any], repeat: Repeat, *, max_waiting: int | None
    ) -> JobRecord:
        """Make a comparison, of `tenant`, of whom at most `max_waiting` jobs may wait.

        Raises `RequestError`, `JobError`, `UnknownIdError` or `QuotaError`.
        """
        request, rows, resolved = self._resolved(tenant, body)
        new = NewJob(
            tenant=tenant,
            kind="compare",
            model=request.model,
            training_file=rows.id,
            validation_file=request.validation_file,
            name=request.suffix or "comparison",
            seed=request.seeds[0],
            request=dict(body),
            request_sha256=request_digest({"kind": "compare", **body}),
            resolved={"compare": resolved, "training": request.training},
            estimate=self._trials.known_comparison(self._trial(rows, resolved)),
            metadata=dict(request.metadata or {}),
            max_waiting=self._most_waiting(max_waiting),
        )
        return self._store.jobs.create(new, repeat)[0]

    def try_out(self, tenant: str, body: Mapping[str, Any]) -> ComparisonTrial:
        """Return what may be asked for an estimate of a comparison, without making one.

        Raises as `compare`.
        """
        _, rows, resolved = self._resolved(tenant, body)
        return self._trial(rows, resolved)

    def with_result(
        self,
        kind: ResultKind,
        tenant: str,
        scope: Tenant,
        body: Mapping[str, Any],
        repeat: Repeat,
        *,
        max_waiting: int | None,
    ) -> JobRecord:
        """Make a proof, or an export, of a result that `scope` sees; raises as `compare`."""
        work = _OF_RESULTS[kind]
        request: Any = parse_body(work.request, body)
        model = self._store.models.find(scope, request.model).name
        new = NewJob(
            tenant=tenant,
            kind=kind,
            model=self._base.name,
            name=model,
            seed=0,
            request=dict(body),
            request_sha256=request_digest({"kind": kind, **body}),
            resolved={kind: work.resolve(request, base=self._base.source, model=model)},
            metadata={},
            max_waiting=self._most_waiting(max_waiting),
        )
        return self._store.jobs.create(new, repeat)[0]

    def _resolved(
        self, tenant: str, body: Mapping[str, Any]
    ) -> tuple[ComparisonRequest, FileRecord, dict[str, Any]]:
        request = parse_comparison(body)
        self._jobs.check_base(request.model)
        rows = self._jobs.rows_for(tenant, request.training_file, "training_file", request.training)
        held_out = rows
        if request.validation_file is not None:
            held_out = self._jobs.rows_for(
                tenant, request.validation_file, "validation_file", request.training
            )
        resolved = resolve_comparison(
            request,
            base=self._base.source,
            tenant=tenant,
            name=self._base.name,
            endings=(ending_of(rows), ending_of(held_out)),
        )
        return request, rows, resolved

    def _trial(self, rows: FileRecord, resolved: dict[str, Any]) -> ComparisonTrial:
        return ComparisonTrial(self._base.name, resolved, {rows_of(resolved): rows.sha256})

    def _most_waiting(self, of_tenant: int | None) -> int:
        bound = self._settings.max_queued_jobs
        return min(bound, of_tenant or bound)
