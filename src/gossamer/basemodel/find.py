"""Find the folder of a model by the name that a user gives: a known name, a folder, a hub id."""

import re
from pathlib import Path

from gossamer.basemodel.catalog import CATALOG
from gossamer.basemodel.pull import pull
from gossamer.errors import DownloadError, ModelNotFoundError, UsageError, cut, unknown_name_message

# Weights as safetensors only: pickles can run code.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.txt"]
# Some repositories hold the same weights twice, the second time in another layout.
_UNWANTED = ["*/*", "*.md", "consolidated*"]


def download(repo_id: str, *, revision: str | None = None) -> Path:
    """Folder of the snapshot of `repo_id`; with HF_HUB_OFFLINE set, from the cache only.

    Raises:
        ModelNotFoundError: the hub has no such model or revision.
        DownloadError: no access, no network, or no space.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f" at revision '{revision}'" if revision else ""
    try:
        folder = snapshot_download(
            repo_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except hub.GatedRepoError:
        raise DownloadError(
            f"'{repo_id}' asks for acceptance of its terms; accept them on its hub page and set "
            "HF_TOKEN"
        ) from None
    except hub.RevisionNotFoundError:
        raise ModelNotFoundError(f"the hub's model '{repo_id}' has no revision{at}") from None
    except hub.RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"'{repo_id}' is neither a local folder nor a model of the hub (a private one needs "
            "HF_TOKEN)"
        ) from None
    except hub.LocalEntryNotFoundError:
        raise DownloadError(
            f"'{repo_id}'{at} is not a local folder, is not cached, and the hub cannot be "
            "reached; connect to the network (unset HF_HUB_OFFLINE) or give a local folder"
        ) from None
    except (hub.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(f"fetching '{repo_id}' from the hub failed: {reason}") from None
    return Path(folder)


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """The folder of a base model, fetched first if need be.

    `name_or_path` is, tried in this order: an alias of the catalog, a local folder, a hub id
    `OWNER/NAME` (of which `revision` is a branch, tag or commit). What is cached is used without
    touching the network; a hub model is looked up there unless HF_HUB_OFFLINE is set.

    Raises:
        ModelNotFoundError: none of the three.
        DownloadError: it exists, but fetching failed.
        UsageError: `revision` is given for something that has none.
    """
    name = str(name_or_path)
    if name in CATALOG:
        _refuse_revision(name, revision)
        return pull(name)
    folder = Path(name).expanduser()
    if folder.exists():
        _refuse_revision(name, revision)
        return _local_folder(folder)
    return _from_hub(name, revision)


def fetch(name: str, *, revision: str | None = None) -> Path:
    """Fetch a model by its name in the catalog or the hub; a cached copy is checked in full."""
    if name in CATALOG:
        _refuse_revision(name, revision)
        return pull(name, verify=True)
    return _from_hub(name, revision)


def _local_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is a file; give the folder that holds config.json")
    return folder.absolute()


def require_known(name_or_path: str | Path) -> None:
    """Raise `ModelNotFoundError` for what is neither alias nor folder, nor may be a hub id.

    Nothing is fetched, and nothing heavy is loaded.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if name in CATALOG or (_HUB_ID.fullmatch(name) and not folder.exists()):
        return
    if folder.exists():
        _local_folder(folder)
    elif "/" in name or "\\" in name or name.startswith((".", "~")):
        raise ModelNotFoundError(f"there is no model folder {cut(name)}")
    else:
        raise ModelNotFoundError(
            f"{unknown_name_message('model', name, CATALOG)} "
            "(an alias, a folder, or a hub id OWNER/NAME)"
        )


def _from_hub(name: str, revision: str | None) -> Path:
    require_known(name)

    return download(name, revision=revision)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(f"'{name}' has no revisions; --revision is for models of the hub")
