"""What proofs and exports take: told from the sizes of files, without a process."""

import json
from pathlib import Path
from typing import Any

from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.queue.needs import GIB, MIB, verification_pool_gib, weights_bytes
from gossamer.jobs.store.records import JobRecord

_PROCESS = 3 * GIB // 4
"""Bytes of a process that has torch and transformers in it."""
_SMALL_FILES = 50 * MIB


def needs_of_verification(job: JobRecord, folder: DataFolder) -> dict[str, Any]:
    """Bytes of memory and disk of a proof: the served model, and then each reference."""
    resolved = job.resolved["verify"]
    weights = _float32_bytes(Path(resolved["base"]))
    pool = int(GIB * verification_pool_gib(weights_bytes(folder.link(resolved["model"]))))
    return _needs(memory=2 * weights + pool, disk=0)


def needs_of_export(job: JobRecord, folder: DataFolder) -> dict[str, Any]:
    """Bytes of memory and disk of an export."""
    resolved = job.resolved["export"]
    adapter = weights_bytes(folder.link(resolved["model"]))
    if resolved["format"] == "lora":
        return _needs(memory=16 * adapter, disk=4 * adapter)
    base = weights_bytes(Path(resolved["base"]))
    return _needs(memory=2 * base + 4 * adapter, disk=base + adapter)


def _needs(*, memory: int, disk: int) -> dict[str, Any]:
    parts = {"weights": memory, "process": _PROCESS}
    return {
        "memory": memory + _PROCESS,
        "memory_parts": parts,
        "disk": disk + _SMALL_FILES,
        "device": "cpu",
        "seconds": None,
    }


def _float32_bytes(base: Path) -> int:
    """Bytes of the weights of a base model in float32."""
    stored = weights_bytes(base)
    try:
        config = json.loads((base / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return 2 * stored
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return stored if name == "float32" else 2 * stored
