"""From the body of a request to a job in the database, or to the one that it has made before."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gossamer.errors import JobError, UnknownIdError, cut
from gossamer.jobs.files.names import has_rows
from gossamer.jobs.files.service import FileService
from gossamer.jobs.ids import model_name
from gossamer.jobs.request import JobRequest, ResolvedJob, parse_request, request_digest, resolve
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.jobs.store.records import FileRecord, JobRecord
from gossamer.studio.trials import Trial, Trials

MAX_SEED = 2**31


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that is served, and that jobs begin from."""

    name: str
    """What clients call it."""
    source: str
    """What training calls it: a folder, or a name that needs no network."""
    width: Callable[[], int]
    """Finds its hidden size."""


@dataclass(frozen=True, slots=True)
class _Files:
    training: FileRecord
    validation: FileRecord | None

    @property
    def endings(self) -> tuple[str, str]:
        return ending_of(self.training), ending_of(self.validation or self.training)


class JobMaker:
    """Makes jobs of requests. Not for the event loop."""

    def __init__(
        self,
        store: JobStore,
        files: FileService,
        settings: JobsSettings,
        base: BaseModel,
        trials: Trials,
    ) -> None:
        self._store = store
        self._trials = trials
        self._files = files
        self._settings = settings
        self._base = base

    def create(
        self,
        tenant: str,
        body: Mapping[str, Any],
        repeat: Repeat,
        *,
        max_waiting: int | None = None,
    ) -> JobRecord:
        """Make a job of `tenant`, of whom at most `max_waiting` may wait.

        Raises `RequestError`, `JobError`, `UnknownIdError` or `QuotaError`.
        """
        request, files, resolved, seed = self._resolved(tenant, body)
        bound = self._settings.max_queued_jobs
        new = NewJob(
            tenant=tenant,
            model=request.model,
            training_file=files.training.id,
            validation_file=files.validation.id if files.validation else None,
            name=model_name(self._base.name, tenant, request.suffix),
            seed=seed,
            request=dict(body),
            request_sha256=request_digest(body),
            resolved=resolved.as_record(),
            estimate=self._trials.known(self._trial(files, resolved)),
            metadata=dict(request.metadata or {}),
            max_waiting=min(bound, max_waiting or bound),
        )
        return self._store.jobs.create(new, repeat)[0]

    def try_out(self, tenant: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Trial]:
        """Say what a job would be, without making one, and of what an estimate may be asked.

        Raises as `create`.
        """
        request, files, resolved, seed = self._resolved(tenant, body)
        rows = self._rows(files.training, request.training)
        answer = {
            "object": "fine_tuning.job.estimate",
            "hyperparameters": resolved.hyperparameters,
            "adapter": resolved.adapter,
            "training": resolved.training,
            "seed": seed,
            "estimate": {"rows": rows, "steps": _steps(resolved.run, rows)},
        }
        return answer, self._trial(files, resolved)

    def check_base(self, model: str) -> None:
        """Raise `UnknownIdError` for a base model that this server does not train."""
        if model != self._base.name:
            raise UnknownIdError(
                f"'{cut(model)}' is not the model that this server can train; give "
                f"model '{self._base.name}'",
                code="model_not_found",
                param="model",
            )

    def rows_for(self, tenant: str, file_id: str, param: str, run: Mapping[str, Any]) -> FileRecord:
        """The file of rows of a run with those settings; raises `UnknownIdError` or `JobError`."""
        file = self._file(tenant, file_id, param)
        self._check_rows(file, run, param)
        return file

    def _trial(self, files: _Files, resolved: ResolvedJob) -> Trial:
        run = resolved.run
        rows = {run["data"]: files.training.sha256}
        if files.validation is not None:
            rows[run["eval_data"]] = files.validation.sha256
        return Trial(self._base.name, run, rows)

    def _resolved(
        self, tenant: str, body: Mapping[str, Any]
    ) -> tuple[JobRequest, _Files, ResolvedJob, int]:
        request = parse_request(body)
        self.check_base(request.model)
        files = _Files(
            self._file(tenant, request.training_file, "training_file"),
            None
            if request.validation_file is None
            else self._file(tenant, request.validation_file, "validation_file"),
        )
        seed = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
        resolved = resolve(
            request,
            base=self._base.source,
            width=self._base.width,
            seed=seed,
            endings=files.endings,
            rows=self._rows(files.training, request.training),
        )
        self._check_rows(files.training, resolved.run, "training_file")
        if files.validation is not None:
            self._check_rows(files.validation, resolved.run, "validation_file")
        return request, files, resolved, seed

    def _file(self, tenant: str, file_id: str, param: str) -> FileRecord:
        try:
            file = self._store.files.get(tenant, file_id)
        except UnknownIdError as error:
            raise UnknownIdError(str(error), code=error.code, param=param) from None
        if not has_rows(file.purpose):
            raise JobError(
                f"file {file_id} was sent for '{file.purpose}'; send it for 'fine-tune'",
                code="invalid_file",
                param=param,
            )
        return file

    def _rows(self, file: FileRecord, training: Mapping[str, Any]) -> int | None:
        """The rows that a run can learn from, as far as the check of the file tells."""
        report = self._files.desk.report(file)
        rows = report.get("rows") if report else None
        if report is None or not isinstance(rows, dict):
            return None
        wanted = training.get("leave_out") or []
        kinds = ("duplicates", "near-duplicates")
        if "near-duplicates" in wanted:
            left_out = sum(report[kind.replace("-", "_")] for kind in kinds)
        else:
            left_out = report["duplicates"] if "duplicates" in wanted else 0
        return int(rows["used"]) - left_out

    def _check_rows(self, file: FileRecord, run: Mapping[str, Any], param: str) -> None:
        """Refuse what the run would refuse later, as far as it is known now."""
        report = self._files.desk.report(file)
        if report is None or "error" in report:
            return
        rows, problems = report["rows"], report["problems"]
        if problems and not run.get("skip_bad_rows"):
            raise JobError(
                f"{rows['bad']} of {rows['read']} rows of {param} cannot be used; the first is "
                f"{report['unit']} {problems[0]['row']}: {problems[0]['reason']}. Mend them, or "
                'give "training": {"skip_bad_rows": true} to leave them out',
                code="invalid_file",
                param=param,
            )
        are_pairs = report["format"] == "preference"
        objective = run.get("objective", "sft")
        if are_pairs != (objective != "sft"):
            wants = "prompts and completions" if are_pairs else "rows with chosen and rejected"
            raise JobError(
                f"the objective '{objective}' learns from "
                f"{wants}, but {param} has rows of format {report['format']}; choose another "
                "training.objective (sft, dpo or orpo)",
                code="invalid_file",
                param=param,
            )


def ending_of(file: FileRecord) -> str:
    """The end of a file's name, which tells its format."""
    return PurePosixPath(file.filename).suffix.lower()


def _steps(run: Mapping[str, Any], rows: int | None) -> int | None:
    if run.get("max_steps") is not None:
        return int(run["max_steps"])
    if rows is None:
        return None
    held = run.get("eval_split") or 0
    train = rows - (int(held) if held >= 1 else max(1, round(rows * held)) if held else 0)
    per_step = run["batch_size"] * run["gradient_accumulation"]
    return max(1, -(-int(train * run["epochs"]) // per_step))
