"""The objects that the routes of files and jobs share, and who may use them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from starlette.requests import Request

from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.files.preview import Preview
from gossamer.jobs.files.service import FileService
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.scoped import EVERYONE, Tenant
from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.fair_threads import FairThreadPool
from gossamer.serving.keys import Caller, TenantSettings
from gossamer.studio.grants import Grants
from gossamer.studio.models import TunedModels
from gossamer.studio.new_job import JobMaker
from gossamer.studio.new_work import WorkMaker
from gossamer.studio.sessions import Sessions
from gossamer.studio.trials import Trials
from gossamer.studio.view.lines import RunLines
from gossamer.studio.view.work import JobResults

T = TypeVar("T")

WORKERS = 8
PER_TENANT = 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Studio:
    """The shared objects of one server, found by its routes."""

    store: JobStore
    folder: DataFolder
    files: FileService
    maker: JobMaker
    work: WorkMaker
    sessions: Sessions
    lines: RunLines
    results: JobResults
    grants: Grants
    models: TunedModels
    trials: Trials
    preview: Preview
    wake: Callable[[], None] = lambda: None
    """Tells those who start jobs that something has changed."""
    threads: FairThreadPool = field(
        default_factory=lambda: FairThreadPool("gossamer-studio", WORKERS, PER_TENANT)
    )
    trial_threads: FairThreadPool = field(
        default_factory=lambda: FairThreadPool("gossamer-trials", 1, 1)
    )

    @staticmethod
    def of(http: Request) -> "Studio":
        """Return the objects of the server that serves `http`."""
        return cast(Studio, http.app.state.studio)

    async def run(self, http: Request, work: Callable[[], T]) -> T:
        """Run `work`, which waits for the database or a disk, away from the event loop."""
        return await self.threads.run(caller_of(http).tenant, work)


def trainer(http: Request) -> Caller:
    """Return who calls; raises `ApiError` 403 for those who may not train."""
    caller = caller_of(http)
    if not (caller.may_train or caller.is_admin):
        raise ApiError(
            403,
            "this key may not upload data or train; its tenant needs 'train: true' in the key file "
            "(gossamer keys add NAME --train)",
            code="training_not_allowed",
        )
    return caller


def owner(http: Request) -> Caller:
    """Return who calls; raises `ApiError` 403 for a call that shows neither key nor session."""
    caller = caller_of(http)
    if not caller.is_admin and caller.key_id is None:
        raise ApiError(
            403,
            "this needs the key of the model's owner, or the session that 'gossamer studio' opens",
            code="admin_key_required",
        )
    return caller


def scope_of(caller: Caller) -> Tenant:
    """Return whose files and jobs the caller sees: its tenant's, or everybody's."""
    return EVERYONE if caller.is_admin else caller.tenant


def settings_of(http: Request, caller: Caller) -> TenantSettings:
    """Return the quotas of the caller's tenant."""
    return Context.of(http).keys.tenant(caller.tenant) or TenantSettings()


def storage_of(http: Request, caller: Caller) -> int | None:
    """Return the bytes of files that the caller's tenant may have; None: any."""
    limit = settings_of(http, caller).storage_mib
    return None if limit is None else int(limit * _MIB)
