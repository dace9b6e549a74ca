"""Fetch a model of the Hugging Face hub into the hub's own cache."""

from pathlib import Path

from gossamer.errors import DownloadError, ModelNotFoundError

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
