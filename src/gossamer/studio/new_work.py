"""Jobs that are no tuning run, made of requests: comparisons, proofs and exports."""

from collections.abc import Mapping
from typing import Any

from gossamer.jobs.kinds.compare import parse_comparison, resolve_comparison
from gossamer.jobs.kinds.export import ExportRequest, resolve_export
from gossamer.jobs.kinds.verify import VerificationRequest, resolve_verification
from gossamer.jobs.request import parse_body, request_digest
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import Tenant
from gossamer.studio.new_job import BaseModel, JobMaker, ending_of


class WorkMaker:
    """Makes such jobs. Not for the event loop."""

    def __init__(
        self, store: JobStore, settings: JobsSettings, base: BaseModel, jobs: JobMaker
    ) -> None:
        self._store = store
        self._settings = settings
        self._base = base
        self._jobs = jobs

    def compare(
        self, tenant: str, body: Mapping[str, Any], repeat: Repeat, *, max_waiting: int | None
    ) -> JobRecord:
        """Make a comparison, of `tenant`, of whom at most `max_waiting` jobs may wait.

        Raises `RequestError`, `JobError`, `UnknownIdError` or `QuotaError`.
        """
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
        bound = self._settings.max_queued_jobs
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
            metadata=dict(request.metadata or {}),
            max_waiting=min(bound, max_waiting or bound),
        )
        return self._store.jobs.create(new, repeat)[0]

    def verify(
        self,
        tenant: str,
        scope: Tenant,
        body: Mapping[str, Any],
        repeat: Repeat,
        *,
        max_waiting: int | None,
    ) -> JobRecord:
        """Make a proof of a result that `scope` sees; raises as `compare`."""
        request = parse_body(VerificationRequest, body)
        model = self._store.models.find(scope, request.model).name
        resolved = resolve_verification(request, base=self._base.source, model=model)
        return self._create("verify", tenant, model, body, resolved, repeat, max_waiting)

    def export(
        self,
        tenant: str,
        scope: Tenant,
        body: Mapping[str, Any],
        repeat: Repeat,
        *,
        max_waiting: int | None,
    ) -> JobRecord:
        """Make an export of a result that `scope` sees; raises as `compare`."""
        request = parse_body(ExportRequest, body)
        model = self._store.models.find(scope, request.model).name
        resolved = resolve_export(request, base=self._base.source, model=model)
        return self._create("export", tenant, model, body, resolved, repeat, max_waiting)

    def _create(
        self,
        kind: Any,
        tenant: str,
        model: str,
        body: Mapping[str, Any],
        resolved: dict[str, Any],
        repeat: Repeat,
        max_waiting: int | None,
    ) -> JobRecord:
        bound = self._settings.max_queued_jobs
        new = NewJob(
            tenant=tenant,
            kind=kind,
            model=self._base.name,
            name=model,
            seed=0,
            request=dict(body),
            request_sha256=request_digest({"kind": kind, **body}),
            resolved={kind: resolved},
            metadata={},
            max_waiting=min(bound, max_waiting or bound),
        )
        return self._store.jobs.create(new, repeat)[0]
