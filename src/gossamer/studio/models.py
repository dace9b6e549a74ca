"""Tuned models of one server: named, deleted, brought back. The database decides, links follow, and
the engine is told what it cannot see by looking.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from gossamer.errors import GossamerError, JobError
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.ids import check_alias
from gossamer.jobs.results import links
from gossamer.jobs.results.archive import archive
from gossamer.jobs.results.imports import NewImport, import_adapter
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.models import name_taken
from gossamer.jobs.store.records import ModelRecord
from gossamer.jobs.store.scoped import EVERYONE, Tenant
from gossamer.serving.core.interface import EngineInterface
from gossamer.studio.grants import Grants
from gossamer.studio.new_job import BaseModel
from gossamer.studio.view.checkpoints import publish_checkpoints, retire_checkpoints

CHECK_SECONDS = 300.0
"""An adapter that is imported and cannot be read in this time is refused."""
LOAD_SECONDS = 60.0
"""An answer waits no longer for an adapter to be read; it is read on all the same."""


@dataclass(frozen=True, slots=True)
class TunedModels:
    """The models of one data folder. Not for the event loop.

    Methods raise `UnknownIdError` for what is not the tenant's.
    """

    store: JobStore
    folder: DataFolder
    grants: Grants
    base: BaseModel
    keep_seconds: float
    """How long a deleted model can be had back."""

    def rename(
        self, engine: EngineInterface, tenant: Tenant, name: str, alias: str | None
    ) -> ModelRecord:
        """Serve a model under a name of its owner's choice too, or no longer (None).

        Raises `RequestError` for what cannot be a name, `JobError` for one that is taken.
        """
        before = self.store.models.find(tenant, name)
        if alias is not None and alias != before.alias:
            self._require_free(engine, check_alias(alias), before.name)
        model = self.store.models.rename(tenant, before.name, alias)
        links.rename(self.store, self.folder, model, before.alias)
        if alias is not None:
            _load(engine, alias)
        self.grants.refresh()
        return model

    def delete(self, engine: EngineInterface, tenant: Tenant, name: str) -> ModelRecord:
        """Move a model to the trash; requests that were accepted for it end with it."""
        model = self.store.models.delete(tenant, name)
        with suppress(GossamerError):
            # Before its link goes: the engine looks for what it is to take away.
            engine.unload_adapter(model.name)
        retire_checkpoints(self.folder, model.name)
        links.hide(self.folder, model)
        self.grants.refresh()
        return model

    def restore(self, engine: EngineInterface, tenant: Tenant, name: str) -> ModelRecord:
        """Bring a deleted model back, under the names that it had and that are still free."""
        model = self.store.models.restore(tenant, name, time.time() - self.keep_seconds)
        links.show_model(self.store, self.folder, model.name)
        if model.job_id is not None:
            publish_checkpoints(self.folder, self.store.jobs.get(EVERYONE, model.job_id))
        _load(engine, model.name)
        self.grants.refresh()
        return model

    def import_zip(self, engine: EngineInterface, new: NewImport) -> tuple[ModelRecord, list[str]]:
        """Make a model of a zip that a tenant has sent, if the engine can serve it.

        Raises as `import_adapter`.
        """
        self._require_free(engine, check_alias(new.alias), name="")

        def check(name: str) -> None:
            try:
                engine.load_adapter(name).result(CHECK_SECONDS)
            except TimeoutError:
                message = "the server had no time to read the adapter; try again later"
                raise JobError(message, code="server_busy", param="file") from None

        made = import_adapter(self.store, self.folder, new, check)
        self.grants.refresh()
        return made

    def archive(self, tenant: Tenant, name: str) -> tuple[str, Iterator[bytes]]:
        """Begin the zip of a model's files; returns what it is called, and its bytes.

        Raises `AdapterNotFoundError` if the files have gone.
        """
        model = self.store.models.find(tenant, name)
        label = model.alias or model.name.replace(":", "-")
        place = self.folder.root / model.folder
        here = (place, place.parent, place.resolve(), place.resolve().parent)
        portable = {self.base.source: self.base.name} | {str(path): "." for path in here}
        return label, archive(place, label, portable)

    def trash(self, tenant: Tenant) -> list[ModelRecord]:
        """The models that the tenant can bring back, the last one deleted first."""
        return self.store.models.deleted(tenant, time.time() - self.keep_seconds)

    def _require_free(self, engine: EngineInterface, alias: str, name: str) -> None:
        """Raise `JobError` if the engine knows something else as `alias`."""
        others = {each.name for each in engine.adapters() if each.alias_of != name}
        if alias == engine.model_name or alias in others:
            raise name_taken(alias)


def _load(engine: EngineInterface, name: str) -> None:
    """Have the engine serve a name that it may have been told to forget.

    What becomes of reading the adapter is told by its state, and by whatever asks it.
    """
    with suppress(GossamerError, TimeoutError):
        engine.load_adapter(name).result(LOAD_SECONDS)
