"""Tuned models, and which tenants beside their owner may use them."""

import time

from sqlalchemy import select

from gossamer.jobs.ids import new_id
from gossamer.jobs.store.database import Database, insert_missing
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
from gossamer.jobs.store.tables import ModelPermissionRow, ModelRow


class ModelTable:
    """The tuned models of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: Tenant, name: str) -> ModelRecord:
        """The model if the tenant owns it; raises `UnknownIdError`, also if it was deleted."""
        with self._database.read() as session:
            return record(ModelRecord, fetch(session, tenant, ModelRow, name, what="model"))

    def page(self, tenant: Tenant, ask: PageAsk) -> ListPage[ModelRecord]:
        """A page of the tenant's own models that are not deleted."""
        kept = ModelRow.deleted.is_(None)
        with self._database.read() as session:
            return page_of(session, tenant, ModelRow, ModelRecord, ask, kept, what="model")

    def all(self) -> list[ModelRecord]:
        """All models, the deleted ones too."""
        with self._database.read() as session:
            return [record(ModelRecord, row) for row in session.scalars(owned(EVERYONE, ModelRow))]

    def delete(self, tenant: Tenant, name: str) -> ModelRecord:
        """Mark a model as deleted; the caller then removes its link. Raises `UnknownIdError`."""
        with self._database.write() as session:
            row = fetch(session, tenant, ModelRow, name, what="model", lock=True)
            row.deleted = time.time()
            return record(ModelRecord, row)

    def restore(self, tenant: Tenant, name: str) -> ModelRecord:
        """Undo a deletion; raises `UnknownIdError` unless the model is a deleted one."""
        with self._database.write() as session:
            query = owned(tenant, ModelRow).where(
                ModelRow.name == name, ModelRow.deleted.is_not(None)
            )
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
        """The models that tenants were permitted, by tenant; not those that were deleted."""
        query = (
            select(ModelPermissionRow.project, ModelPermissionRow.model)
            .join(ModelRow, ModelRow.name == ModelPermissionRow.model)
            .where(ModelRow.deleted.is_(None))
        )
        found: dict[str, set[str]] = {}
        with self._database.read() as session:
            for project, model in session.execute(query):
                found.setdefault(project, set()).add(model)
        return {project: frozenset(models) for project, models in found.items()}

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
