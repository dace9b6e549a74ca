"""What was found out about a file holds as long as the file is not written to.

A server whose adapters do not all fit into memory reads the same files again and again. Hashing and
looking for NaNs are half of the work of that, and need not be repeated.
"""

import os
import time
from dataclasses import dataclass, field
from functools import lru_cache

Stamp = tuple[int, ...]
"""Changes with the content of a file."""

_SETTLED_NS = 2_000_000_000
_MOST_FILES = 1 << 16
_MOST_DIGESTS = 8


@dataclass
class Findings:
    """About the content of one file."""

    is_finite: bool = False
    """Whether it was seen to hold neither NaN nor infinity."""
    _digests: dict[bytes, str] = field(default_factory=dict)

    def digest(self, config: bytes) -> str | None:
        """The adapter's digest if the hash of the config beside the file is `config`."""
        return self._digests.get(config)

    def note_digest(self, config: bytes, digest: str) -> None:
        """That digest; of many configs beside one file only the last ones count."""
        if len(self._digests) >= _MOST_DIGESTS:
            self._digests.clear()
        self._digests[config] = digest


def stamp_of(status: os.stat_result) -> Stamp | None:
    """None if the file was written to so recently that a clock need not tell the next change."""
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if time.time_ns() - changed < _SETTLED_NS:
        return None
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def findings_about(stamp: Stamp | None) -> Findings:
    """Where to note them: kept for the next reader of the same content, if it can be recognised."""
    return Findings() if stamp is None else _kept(stamp)


@lru_cache(maxsize=_MOST_FILES)
def _kept(stamp: Stamp) -> Findings:
    return Findings()
