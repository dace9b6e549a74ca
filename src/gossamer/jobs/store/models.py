"""Tuned models, and which tenants beside their owner may use them.

A model has its name for good, and at most one alias, which its owner has chosen. No two models have
the same alias; that of a deleted one is free for others.
"""

import time
from dataclasses import asdict

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gossamer.errors import JobError
from gossamer.jobs.ids import new_id
from gossamer.jobs.store.database import Database, insert_missing, one_at_a_time
from gossamer.jobs.store.records import (
    ListPage,
    ModelPermissionRecord,
    ModelRecord,
    record,
)
from gossamer.jobs.store.scoped import (
    EVERYONE,
    PageAsk,
    Tenant,
    absent,
    fetch,
    owned,
    page_of,
)
from gossamer.jobs.store.tables import JobRow, ModelPermissionRow, ModelRow

_ALIASES = "aliases of models"


class ModelTable:
    """The tuned models of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: Tenant, name: str) -> ModelRecord:
        """The model if the tenant owns it; raises `UnknownIdError`, also if it was deleted."""
        with self._database.read() as session:
            return record(ModelRecord, fetch(session, tenant, ModelRow, name, what="model"))

    def find(self, tenant: Tenant, name: str) -> ModelRecord:
        """The tenant's model of that name or alias; raises `UnknownIdError`."""
        with self._database.read() as session:
            return record(ModelRecord, _named(session, tenant, name))

    def of_jobs(self, job_ids: list[str]) -> dict[str, ModelRecord]:
        """The models that jobs have made, by job, the deleted ones too.

        Of a job that made several, the one that has the job's name.
        """
        query = (
            select(ModelRow)
            .join(JobRow, JobRow.id == ModelRow.job_id)
            .where(ModelRow.job_id.in_(job_ids), ModelRow.name == JobRow.name)
        )
        with self._database.read() as session:
            return {str(row.job_id): record(ModelRecord, row) for row in session.scalars(query)}

    def add(self, model: ModelRecord) -> None:
        """Make a model that comes from no job; its files are in place.

        Raises `JobError` for an alias that another model has.
        """
        with self._database.write() as session:
            one_at_a_time(session, _ALIASES)
            if model.alias is not None:
                _take(session, model.alias)
            session.add(ModelRow(**asdict(model)))

    def rename(self, tenant: Tenant, name: str, alias: str | None) -> ModelRecord:
        """Give the tenant's model of that name or alias another alias, or none.

        Raises `UnknownIdError`, or `JobError` for one that another model has.
        """
        with self._database.write() as session:
            one_at_a_time(session, _ALIASES)
            row = _named(session, tenant, name, lock=True)
            if alias is not None and alias != row.alias:
                _take(session, alias)
            row.alias = alias
            return record(ModelRecord, row)

    def page(self, tenant: Tenant, ask: PageAsk) -> ListPage[ModelRecord]:
        """A page of the tenant's own models that are not deleted."""
        kept = ModelRow.deleted.is_(None)
        with self._database.read() as session:
            return page_of(session, tenant, ModelRow, ModelRecord, ask, kept, what="model")

    def all(self) -> list[ModelRecord]:
        """All models, the deleted ones too."""
        with self._database.read() as session:
            return [record(ModelRecord, row) for row in session.scalars(owned(EVERYONE, ModelRow))]

    def deleted(self, tenant: Tenant, since: float) -> list[ModelRecord]:
        """The tenant's models that were deleted after `since`, the last one first."""
        query = owned(tenant, ModelRow).where(ModelRow.deleted > since)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(ModelRow.deleted.desc(), ModelRow.name))
            return [record(ModelRecord, row) for row in rows]

    def of_job(self, job_id: str) -> list[ModelRecord]:
        """The models that a job has made and that are not deleted."""
        query = owned(EVERYONE, ModelRow).where(
            ModelRow.job_id == job_id, ModelRow.deleted.is_(None)
        )
        with self._database.read() as session:
            return [record(ModelRecord, row) for row in session.scalars(query)]

    def delete(self, tenant: Tenant, name: str) -> ModelRecord:
        """Mark the model of that name or alias as deleted; its links are the caller's to move.

        Raises `UnknownIdError`.
        """
        with self._database.write() as session:
            row = _named(session, tenant, name, lock=True)
            row.deleted = time.time()
            return record(ModelRecord, row)

    def restore(self, tenant: Tenant, name: str, since: float = 0.0) -> ModelRecord:
        """Undo a deletion, with the alias unless another model has it now.

        Raises `UnknownIdError` unless the model was deleted after `since`.
        """
        with self._database.write() as session:
            query = owned(tenant, ModelRow).where(ModelRow.name == name, ModelRow.deleted > since)
            row = session.scalars(query.with_for_update()).one_or_none()
            if row is None:
                raise absent("model", name)
            row.deleted = None
            return record(ModelRecord, row)

    def forget(self, name: str) -> None:
        """Remove a deleted model for good, with its permissions; its files have gone already."""
        with self._database.write() as session:
            row = session.get(ModelRow, name, with_for_update=True)
            if row is not None and row.deleted is not None:
                query = select(ModelPermissionRow).where(ModelPermissionRow.model == name)
                for permission in session.scalars(query):
                    session.delete(permission)
                session.flush()
                session.delete(row)

    def permit(
        self, tenant: Tenant, model: str, projects: list[str]
    ) -> list[ModelPermissionRecord]:
        """Let other tenants use a model; returns their permissions, those they had before too."""
        with self._database.write() as session:
            row = fetch(session, tenant, ModelRow, model, what="model", lock=True)
            for project in projects:
                insert_missing(
                    session,
                    ModelPermissionRow,
                    id=new_id("cp_"),
                    model=model,
                    tenant=row.tenant,
                    project=project,
                    created=time.time(),
                )
            query = owned(tenant, ModelPermissionRow).where(
                ModelPermissionRow.model == model, ModelPermissionRow.project.in_(projects)
            )
            rows = session.scalars(query.order_by(ModelPermissionRow.created))
            return [record(ModelPermissionRecord, row) for row in rows]

    def permissions(
        self, tenant: Tenant, model: str, ask: PageAsk, project: str | None = None
    ) -> ListPage[ModelPermissionRecord]:
        """A page of the permissions of a model."""
        filters = [ModelPermissionRow.model == model]
        if project is not None:
            filters.append(ModelPermissionRow.project == project)
        with self._database.read() as session:
            fetch(session, tenant, ModelRow, model, what="model")
            return page_of(
                session,
                tenant,
                ModelPermissionRow,
                ModelPermissionRecord,
                ask,
                *filters,
                what="permission",
            )

    def forbid(self, tenant: Tenant, model: str, permission_id: str) -> None:
        """Take a permission back; raises `UnknownIdError`."""
        with self._database.write() as session:
            row = fetch(
                session, tenant, ModelPermissionRow, permission_id, what="permission", lock=True
            )
            if row.model != model:
                raise absent("permission", permission_id)
            session.delete(row)

    def granted(self) -> dict[str, frozenset[str]]:
        """The names that tenants may use beside those which carry theirs, by tenant: models that
        they were permitted, and the aliases of these and of their own; not of deleted ones."""
        permitted = (
            select(ModelPermissionRow.project, ModelRow.name, ModelRow.alias)
            .join(ModelRow, ModelRow.name == ModelPermissionRow.model)
            .where(ModelRow.deleted.is_(None))
        )
        own = select(ModelRow.tenant, ModelRow.name, ModelRow.alias).where(
            ModelRow.deleted.is_(None), ModelRow.alias.is_not(None)
        )
        found: dict[str, set[str]] = {}
        with self._database.read() as session:
            for query in (permitted, own):
                for tenant, *names in session.execute(query):
                    found.setdefault(tenant, set()).update(filter(None, names))
        return {tenant: frozenset(names) for tenant, names in found.items()}

    def may_use(self, tenant: str, model: str) -> bool:
        """Whether the tenant owns the model or was permitted it."""
        with self._database.read() as session:
            row = session.get(ModelRow, model)
            if row is None or row.deleted is not None:
                return False
            if row.tenant == tenant:
                return True
            query = select(ModelPermissionRow.id).where(
                ModelPermissionRow.model == model, ModelPermissionRow.project == tenant
            )
            return session.scalar(query) is not None


def _named(session: Session, tenant: Tenant, name: str, *, lock: bool = False) -> ModelRow:
    """The tenant's living model of that name or alias; raises `UnknownIdError`."""
    query = owned(tenant, ModelRow).where(
        or_(ModelRow.name == name, ModelRow.alias == name), ModelRow.deleted.is_(None)
    )
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise absent("model", name)
    return row


def _take(session: Session, alias: str) -> None:
    """Take an alias from a deleted model; raises `JobError` if a living one has it."""
    holder = session.scalars(select(ModelRow).where(ModelRow.alias == alias)).one_or_none()
    if holder is None:
        return
    if holder.deleted is None:
        raise name_taken(alias)
    holder.alias = None
    session.flush()


def name_taken(alias: str) -> JobError:
    """Build the error for a name that something else has already."""
    return JobError(
        f"the name '{alias}' is taken; choose another", code="name_taken", param="alias"
    )
