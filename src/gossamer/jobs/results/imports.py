"""Adapters that no job has made: unpacked, looked at, and put where a server finds them.

imports/.half-X/   is being unpacked
imports/NAME/      is whole; without a model's row it is not a model yet, or no more
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gossamer.adapters.layout import WEIGHTS_FILE
from gossamer.errors import AdapterError, JobError
from gossamer.files import flush, flush_all, storing
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.ids import model_name
from gossamer.jobs.results import links
from gossamer.jobs.results.unpack import unpack
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import ModelRecord

HALF = ".half-"
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImport:
    """An adapter that a tenant has sent."""

    tenant: str
    base: str
    """The served name of the base model."""
    alias: str
    """The name that it is to have."""
    path: Path
    """The zip."""
    max_bytes: int
    """What its files may have together."""
    max_total: int | None
    """What all files and imported models of the tenant may have; None: anything."""


def import_adapter(
    store: JobStore, folder: DataFolder, new: NewImport, check: Callable[[str], None]
) -> tuple[ModelRecord, list[str]]:
    """Make a model of a zip; returns it, and the names of the members that were left.

    `check` is given the name under which a server finds the adapter, and raises what is wrong with
    it there. Nothing is left of an adapter that is refused. Raises `JobError`, `AdapterError`s as
    `inspect`, or what `check` raises.
    """
    # It loads torch, which a server has by now, and the commands of jobs do without.
    from gossamer.adapters.inspect import inspect

    name = model_name(new.base, new.tenant, new.alias)
    place = f"{folder.imports.name}/{name}"
    with storing("the adapter cannot be stored"):
        half = Path(tempfile.mkdtemp(prefix=HALF, dir=folder.imports))
    try:
        # Messages name an adapter by its folder.
        whole = half / new.alias
        whole.mkdir()
        left = unpack(new.path, whole, new.max_bytes)
        with _without_paths(half):
            digest = inspect(whole).digest
        size = (whole / WEIGHTS_FILE).stat().st_size
        _require_quota(store, new, size)
        with storing("the adapter cannot be stored"):
            flush_all(whole)
            whole.rename(folder.root / place)
            flush(folder.imports)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    try:
        links.show(folder, name, place)
        with _without_paths(folder.served):
            check(name)
        model = ModelRecord(
            name=name,
            alias=new.alias,
            job_id=None,
            folder=place,
            tenant=new.tenant,
            digest=digest,
            bytes=size,
            created=time.time(),
            deleted=None,
        )
        store.models.add(model)
    except BaseException:
        links.remove(folder, name)
        shutil.rmtree(folder.root / place, ignore_errors=True)
        raise
    links.show_model(store, folder, name)
    return model, left


@contextmanager
def _without_paths(folder: Path) -> Iterator[None]:
    """Take the path of `folder` out of what is said of an adapter in it."""
    try:
        yield
    except AdapterError as error:
        error.args = (str(error).replace(f"{folder}/", ""),)
        raise


def _require_quota(store: JobStore, new: NewImport, size: int) -> None:
    if new.max_total is None:
        return
    used = store.files.total_bytes(new.tenant)
    if used + size > new.max_total:
        raise JobError(
            f"your files and imported models have {used / _MIB:.1f} of {new.max_total / _MIB:g} "
            f"MiB (storage_mib), and this adapter {size / _MIB:.1f}; delete some first",
            code="storage_exceeded",
        )
