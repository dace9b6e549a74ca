"""What a run folder tells of a run while it goes on, to those who do not train."""

import json
import re
from contextlib import suppress
from pathlib import Path
from statistics import median

from gossamer.training.outputs.checkpoint import FOLDER
from gossamer.training.outputs.metrics import FILE
from gossamer.training.outputs.samples import FILE as SAMPLES
from gossamer.training.outputs.samples import Samples, read_samples

__all__ = ["SAMPLES", "SAVED", "log_tail", "samples_of", "saved_step", "step_seconds"]

SAVED = "saved-step"
"""The file in which work that is no single run notes the step from which it could go on."""
_CHECKPOINT = re.compile(r"step-(\d+)")
_TAIL_BYTES = 64 * 2**10
_RECENT = 20
"""Steps whose median tells how long the others will take."""


def saved_step(run: Path) -> int:
    """The step of the last checkpoint; 0: there is none."""
    with suppress(OSError, ValueError):
        return int((run / SAVED).read_text())
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


def samples_of(run: Path) -> Samples | None:
    """What the model has answered at each evaluation; None: no samples are taken."""
    return read_samples(run)


def log_tail(path: Path) -> tuple[str, bool]:
    """The last whole lines of a log, 64 KiB at most, and whether they are all; of none, nothing."""
    content, is_whole = _tail(path)
    if not is_whole:
        content = content.partition(b"\n")[2]
    return content.decode(errors="replace"), is_whole


def _last_lines(path: Path) -> list[bytes]:
    return _tail(path)[0].splitlines()


def _tail(path: Path) -> tuple[bytes, bool]:
    """The end of a file, and whether it is the whole of it."""
    try:
        with path.open("rb") as stream:
            begin = max(0, stream.seek(0, 2) - _TAIL_BYTES)
            stream.seek(begin)
            return stream.read(_TAIL_BYTES), not begin
    except OSError:
        return b"", True
