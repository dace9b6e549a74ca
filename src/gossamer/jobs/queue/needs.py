"""What a job takes of memory and disk, and what of both must stay free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 2**20, 2**30
_STATE_BYTES = 12
"""Bytes of a checkpoint for each trained weight: the weight and two moments in float32."""
_STARTER = 256 * MIB
"""Memory of the process that starts the runs of a comparison."""
_SMALL_FILES = 50 * MIB
"""Space for the log, the metrics and the curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRoom:
    """Memory and disk in bytes, as they are now."""

    memory_total: int
    memory_free: int
    """What a process may still take."""
    disk_total: int
    disk_free: int
    disk_floor: int
    """What the settings want free at least."""
    job_memory: int | None = None
    """What the settings let one job take; None: they do not say."""

    @property
    def memory_reserve(self) -> int:
        """What training leaves to everything else: 10 % of the memory, 1 GiB at least."""
        return memory_reserve(self.memory_total)

    @property
    def most_memory(self) -> int:
        """What one job may take, if it runs alone."""
        most = self.memory_total - self.memory_reserve
        return most if self.job_memory is None else min(most, self.job_memory)

    @property
    def disk_reserve(self) -> int:
        """What stays free on the disk: 5 % of it, or what the settings want if that is more."""
        return max(self.disk_floor, self.disk_total // 20)

    @property
    def is_disk_low(self) -> bool:
        """Whether running jobs should save and wait."""
        return self.disk_free < self.disk_reserve


def memory_reserve(total: int) -> int:
    """Bytes that stay free of `total`."""
    return max(GIB, total // 10)


def disk_need(*, rows: int, trained_weights: int, adapter: int, checkpoints: int) -> int:
    """Bytes that a job may write: encoded rows, checkpoints, adapter.

    While a checkpoint is written, there is one more than are kept.
    """
    return rows + (checkpoints + 1) * _STATE_BYTES * trained_weights + adapter + _SMALL_FILES


def weights_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder of a model or an adapter; 0 if it has gone."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def verification_pool_gib(adapter: int) -> float:
    """GiB of the pool in which one adapter of that size, in bytes, answers a few prompts."""
    return round(0.5 + 2 * adapter / GIB, 3)


def comparison_needs(runs: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """What runs take one after the other, each once for each seed: the most memory of one and of
    the process that starts them, all adapters, and the time of all if that of each is known, else
    the range that it is in."""
    largest = max(runs, key=lambda run: int(run["memory"]))
    adapters = seeds * sum(int(run["adapter_bytes"]) for run in runs)
    ends = [_ends(run) for run in runs]
    known = [end for end in ends if end is not None]
    least, most = (seeds * sum(end[place] for end in known) for place in (0, 1))
    is_known = len(known) == len(runs)
    return {
        **{name: largest[name] for name in ("rows", "tokens", "device")},
        "steps": seeds * sum(int(run["steps"]) for run in runs),
        "memory": int(largest["memory"]) + _STARTER,
        "memory_parts": {**largest["memory_parts"], "starter": _STARTER},
        "disk": max(int(run["disk"]) for run in runs) + 2 * adapters,
        "seconds": least if is_known and least == most else None,
        "seconds_range": [least, most] if is_known and least < most else None,
    }


def _ends(run: Mapping[str, Any]) -> tuple[float, float] | None:
    """The least and the most seconds that a run may take; None: it is not known."""
    if run.get("seconds") is not None:
        return run["seconds"], run["seconds"]
    found = run.get("seconds_range")
    return None if found is None else (found[0], found[1])


def never_fits(memory: int, room: MachineRoom, margin: float) -> str | None:
    """Say in a sentence why a job could not even run alone; None: it could."""
    most = room.most_memory
    if memory * margin <= most:
        return None
    return (
        f"the job needs about {size(memory * margin)} of memory and at most "
        f"{size(most, down=True)} can be had by one job here; lower batch_size or max_length, set "
        "gradient_checkpointing=true, or take a method with fewer trained weights"
    )


def memory_words(estimate: Mapping[str, Any] | None, held: int) -> str:
    """What a job was expected to take of memory, and what its worker held, as far as that is known:
    a remark in brackets, or nothing."""
    expected = (estimate or {}).get("memory")
    parts = [f"about {size(expected)} were expected"] if expected else []
    if held:
        parts.append(f"its worker held {size(held)}")
    return f" ({', '.join(parts)})" if parts else ""


def size(bytes: float, *, down: bool = False) -> str:
    """Write a number of bytes for people, rounded up: what is asked for must suffice."""
    unit, name = (GIB, "GiB") if bytes > 999 * MIB else (MIB, "MiB")
    tenths = int(bytes * 10 // unit) if down else -int(-bytes * 10 // unit)
    return f"{tenths / 10:g} {name}"
