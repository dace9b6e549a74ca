"""Runs sections one after the other within a time that is over soon, and keeps what they find."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Found = dict[str, Any]


@dataclass
class Lease:
    """What a section is given."""

    device: torch.device
    dry: bool
    """Toy sizes on a CPU, to find mistakes before the time counts."""
    output: Path
    ends: float
    """When the time is over, by `time.monotonic`."""
    peers: Path | None = None
    """Where other servers' wheels are unpacked."""
    results: dict[str, Found] = field(default_factory=dict)
    """What the sections so far have found, by their names."""

    @property
    def has_data(self) -> bool:
        """Whether tensors hold anything: not where launches are only compiled."""
        return self.device.type != "meta"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def found(self, section: str, *path: str) -> Any:
        """Return what a section found at a path of keys, or None."""
        value: Any = self.results.get(section, {}).get("found")
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True)
class Section:
    """One of the questions of the run."""

    name: str
    seconds: int
    """Planned; a section begins only if as many are left."""
    run: Callable[[Lease], Found]
    says: Callable[[Found], str]
    """One line of what was found."""
    needs_data: bool = True
    """Whether it is left out where launches are only compiled."""


def run_all(sections: Sequence[Section], lease: Lease) -> None:
    """Run what fits; a section that fails is written down and does not stop the others."""
    for section in sections:
        started = time.monotonic()
        entry: Found = {"planned_s": section.seconds}
        if section.needs_data and not lease.has_data:
            entry |= {"state": "skipped", "line": "needs data"}
        elif lease.left < section.seconds:
            entry |= {"state": "skipped", "line": f"{lease.left:.0f} s are left"}
        else:
            try:
                found = section.run(lease)
                entry |= {"state": "done", "found": found, "line": section.says(found)}
            except Exception as error:
                entry |= {"state": "failed", "line": f"{type(error).__name__}: {error}"}
                entry["traceback"] = traceback.format_exc()
        entry["took_s"] = round(time.monotonic() - started, 1)
        lease.results[section.name] = entry
        print(
            f"{section.name:12} {entry['state']:8} {entry['took_s']:6.1f} s  {entry['line']}",
            flush=True,
        )
        write(lease)
        _release(lease)


def _release(lease: Lease) -> None:
    """Give the memory of a section's model back, which its graphs refer to in circles."""
    gc.collect()
    if lease.device.type == "cuda":
        torch.cuda.empty_cache()


def write(lease: Lease) -> None:
    """Write all results so far; whatever comes next, they are there."""
    text = json.dumps(lease.results, indent=1, default=str)
    (lease.output / "result.json").write_text(text + "\n")
