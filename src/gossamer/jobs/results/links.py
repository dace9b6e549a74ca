"""The links by which servers find models, and those of models that were deleted.

served/NAME    -> ../jobs/ftjob-X/run    the folder of a model
served/ALIAS   -> ./NAME                 its other name: a server finds one adapter by both
trash/NAME     -> ../jobs/ftjob-X/run    a deleted model; its files stay until it is too late

The database decides which model has which names. What is here follows it, and can be repeated.
Links that people made there are left alone: those of aliases are told by their `./`.
"""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from gossamer.adapters.layout import CONFIG_FILE
from gossamer.errors import UnknownIdError
from gossamer.files import flush
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import ModelRecord
from gossamer.jobs.store.scoped import EVERYONE

HALF = "link-"
"""The start of the names that links have in scratch until they are renamed into their place."""
_SIBLING = "./"
YOUNG_SECONDS = 3600.0
"""A link without a model that is younger may get its model still."""


def show(folder: DataFolder, name: str, place: str) -> bool:
    """Let servers find the adapter in `place`, below the data folder, as `name`.

    False if there is no adapter in it.
    """
    if not (folder.root / place / CONFIG_FILE).is_file():
        return False
    _put(folder, folder.link(name), f"../{place}")
    return True


def show_model(store: JobStore, folder: DataFolder, name: str) -> None:
    """Make the links of a model, unless it was deleted; also in the moment of doing so."""
    with suppress(UnknownIdError):
        model = store.models.get(EVERYONE, name)
        if not show(folder, model.name, model.folder):
            return
        (folder.trash / model.name).unlink(missing_ok=True)
        if model.alias is not None:
            _put(folder, folder.link(model.alias), f"{_SIBLING}{model.name}")
        _follow(store, folder, model)


def rename(store: JobStore, folder: DataFolder, model: ModelRecord, former: str | None) -> None:
    """Make the link of a model's new alias, and remove that of the former one."""
    if former is not None and former != model.alias:
        remove_alias(folder, former, model.name)
    show_model(store, folder, model.name)


def hide(folder: DataFolder, model: ModelRecord) -> None:
    """Move the links of a deleted model to the trash."""
    if model.alias is not None:
        remove_alias(folder, model.alias, model.name)
    with suppress(FileNotFoundError):
        os.replace(folder.link(model.name), folder.trash / model.name)
        flush(folder.trash)
    flush(folder.served)


def withdraw(store: JobStore, folder: DataFolder, name: str) -> None:
    """Remove the link of a model that did not come to be."""
    try:
        store.models.get(EVERYONE, name)
    except UnknownIdError:
        remove(folder, name)


def remove(folder: DataFolder, name: str) -> None:
    """Have servers find nothing under `name`."""
    folder.link(name).unlink(missing_ok=True)
    flush(folder.served)


def remove_alias(folder: DataFolder, alias: str, name: str) -> None:
    """Remove the link `alias` if it stands for the model `name`."""
    if _target(folder.link(alias)) == f"{_SIBLING}{name}":
        remove(folder, alias)


def mend(store: JobStore, folder: DataFolder) -> None:
    """Make the links that are missing, and remove those that no model has."""
    # Looked at first: an old link that is here now has its model by the next statement.
    links = {path.name: path for path in folder.served.iterdir()}
    models = store.models.all()
    by_name = {model.name: model for model in models}
    aliases = {model.alias: model.name for model in models if model.deleted is None}
    for name, path in links.items():
        target = _target(path)
        if target is None:
            continue
        known = by_name.get(name)
        if known is not None:
            if known.deleted is not None:
                hide(folder, known)
        elif target.startswith(_SIBLING):
            if aliases.get(name) != target.removeprefix(_SIBLING) and _is_old(path):
                remove(folder, name)
        elif _is_of_model(target) and _is_old(path):
            remove(folder, name)
    for model in models:
        if model.deleted is None and not _is_shown(folder, model):
            show_model(store, folder, model.name)
    for half in folder.scratch.glob(f"{HALF}*"):
        if _is_old(half):
            half.unlink(missing_ok=True)
    for half in folder.served.glob(".*.tmp"):
        # From before links were made in scratch.
        half.unlink(missing_ok=True)


def _put(folder: DataFolder, link: Path, target: str) -> None:
    """Make a link, whole or not at all; a reader of the folder sees no other name meanwhile."""
    if _target(link) == target:
        return
    half = folder.scratch / f"{HALF}{secrets.token_hex(8)}"
    half.symlink_to(target)
    os.replace(half, link)
    flush(link.parent)


def _follow(store: JobStore, folder: DataFolder, model: ModelRecord) -> None:
    """Undo what has become wrong while the links of `model` were made."""
    try:
        now = store.models.get(EVERYONE, model.name)
    except UnknownIdError:
        hide(folder, model)
        return
    if model.alias is not None and model.alias != now.alias:
        remove_alias(folder, model.alias, model.name)


def _target(path: Path) -> str | None:
    """What a link says; None for what is no link, or has gone."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def _is_shown(folder: DataFolder, model: ModelRecord) -> bool:
    has_alias = model.alias is None or _target(folder.link(model.alias)) is not None
    return has_alias and _target(folder.link(model.name)) is not None


def _is_of_model(target: str) -> bool:
    """Whether a link leads to a whole result; those of checkpoints and of people lead elsewhere."""
    parts = target.split(os.sep)
    is_of_job = parts[:2] == ["..", "jobs"] and (parts[3:] == ["run"] or parts[3:-1] == ["models"])
    return is_of_job or parts[:2] == ["..", "imports"]


def _is_old(path: Path) -> bool:
    try:
        return path.lstat().st_mtime < time.time() - YOUNG_SECONDS
    except FileNotFoundError:
        return False
