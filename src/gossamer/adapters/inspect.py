"""What an adapter is, without using it; and which adapters a folder holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gossamer.adapters.config import read_config
from gossamer.adapters.digest import digest_of
from gossamer.adapters.kinds.table import KINDS, class_of, method_of_type
from gossamer.adapters.layout import CONFIG_FILE, QUANTIZATION_KEY
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.weights import open_weights, weights_path
from gossamer.errors import AdapterNotFoundError

# Of all kinds, so that types without a kind are described as far as their tensors' names tell.
_PART = re.compile("|".join(kind.tensors for kind in KINDS.values() if kind.tensors))
_RANKED = re.compile("|".join(kind.ranked for kind in KINDS.values() if kind.ranked))


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """The description of one adapter."""

    name: str
    path: Path
    kind: str
    """What it does at inference, as `Adapter.kind`; or other."""
    method: str
    """How it was learned: lora, rslora, dora, or PEFT's type in lower case."""
    rank: int | None
    """Largest rank of any module; None for adapters without low-rank factors."""
    ranks: tuple[int, ...]
    """All ranks in use, ascending."""
    targets: tuple[str, ...]
    """Last names of the adapted modules, sorted."""
    num_parameters: int
    num_bytes: int
    """The bytes of the tensors; the file is slightly larger."""
    dtype: str
    """Number format of the tensors, such as float32; or `mixed`."""
    digest: str
    base: str | None
    """Name or path of the base model it was trained on."""
    quantization: str | None
    """How that base was quantised, such as bnb-4bit; None: not at all, or it is not told."""
    created: float
    """Unix time of the weights file."""


def inspect(folder: Path, limits: AdapterLimits | None = None) -> AdapterInfo:
    """Describe the adapter in `folder`, of whatever type.

    Its weights are hashed in pieces, never held.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError: as `open_weights`.
    """
    limits = limits or AdapterLimits()
    config = read_config(folder, limits)
    created = weights_path(folder).stat().st_mtime
    with open_weights(folder, limits) as stored:
        places = stored.header.places
        identity = digest_of(config, stored)
    ranks = sorted({p.shape[0] for key, p in places.items() if _RANKED.search(key) and p.shape})
    dtypes = {str(place.dtype).removeprefix("torch.") for place in places.values()}
    adapter_class = class_of(config, described=True)
    base = config.get("base_model_name_or_path")
    return AdapterInfo(
        name=folder.absolute().name,
        path=folder,
        kind=adapter_class.kind if adapter_class is not None else "other",
        method=KINDS[adapter_class].method(config) if adapter_class else method_of_type(config),
        rank=ranks[-1] if ranks else None,
        ranks=tuple(ranks),
        targets=_targets(places),
        num_parameters=stored.header.numel,
        num_bytes=sum(place.end - place.start for place in places.values()),
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        digest=identity,
        base=base if isinstance(base, str) else None,
        quantization=stored.header.metadata.get(QUANTIZATION_KEY),
        created=created,
    )


def digest(folder: Path) -> str:
    """Hash the content of the adapter in `folder` as `digest.digest_of` does.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError: as `open_weights`.
    """
    limits = AdapterLimits()
    config = read_config(folder, limits)
    with open_weights(folder, limits) as stored:
        return digest_of(config, stored)


def find_adapters(root: Path) -> list[Path]:
    """List adapter folders: `root` itself if it is one, then its immediate sub-folders, by name.

    Hidden folders are skipped: adapters that are being written live there.

    Raises:
        AdapterNotFoundError: `root` is not a folder.
    """
    if not root.is_dir():
        raise AdapterNotFoundError(f"there is no folder {root}")
    found = [root] if (root / CONFIG_FILE).is_file() else []
    for path in sorted(root.iterdir()):
        if not path.name.startswith(".") and (path / CONFIG_FILE).is_file():
            found.append(path)
    return found


def _targets(places: Mapping[str, Place]) -> tuple[str, ...]:
    modules = {_PART.split(key)[0] for key in places if _PART.search(key)}
    return tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))
