"""What a run folder tells of a run while it goes on, to those who do not train."""

import json
import re
from pathlib import Path
from statistics import median

from gossamer.training.outputs.checkpoint import FOLDER
from gossamer.training.outputs.metrics import FILE

_CHECKPOINT = re.compile(r"step-(\d+)")
_TAIL_BYTES = 64 * 2**10
_RECENT = 20
"""Steps whose median tells how long the others will take."""


def saved_step(run: Path) -> int:
    """The step of the last checkpoint; 0: there is none."""
    try:
        names = [path.name for path in (run / FOLDER).iterdir()]
    except OSError:
        return 0
    return max((int(m[1]) for m in map(_CHECKPOINT.fullmatch, names) if m), default=0)


def step_seconds(run: Path) -> float | None:
    """The median time of the last steps, from the end of the metrics; None: no step is done."""
    seconds = []
    for line in _last_lines(run / FILE):
        try:
            record = json.loads(line)
        except ValueError:
            # Cut off at its start by the limit here, or at its end by a kill.
            continue
        if "loss" in record:
            seconds.append(float(record["seconds"]))
    return median(seconds[-_RECENT:]) if seconds else None


def _last_lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            return stream.read().splitlines()
    except OSError:
        return []
