"""`samples.json`: what a model answers to the same held-out prompts as its run goes on."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from gossamer.files import write_whole

FILE = "samples.json"

Samples = dict[str, Any]
"""`prompts`: the prompt and the expected answer of each; `answers`: the step, in a run of several
stages the stage, the texts in the order of the prompts, and the seconds that they took."""


def read_samples(output: Path) -> Samples | None:
    """Read what a run has written up to now; None: it has taken no samples."""
    try:
        found: Samples = json.loads((output / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def add_samples(output: Path, prompts: Sequence[dict[str, str]], answers: dict[str, Any]) -> None:
    """Add the answers of a step, all or nothing."""
    before = read_samples(output) or {"answers": []}
    _write(output, {"prompts": list(prompts), "answers": [*before["answers"], answers]})


def truncate_samples(
    output: Path,
    step: int,
    *,
    later_stages: Collection[str] = (),
    not_evaluated: int | None = None,
) -> None:
    """Drop the answers after `step`, and of later stages, which a resumed run will give again; and
    those of the step `not_evaluated`."""
    found = read_samples(output)
    if found is None:
        return
    kept = [
        each
        for each in found["answers"]
        if each["step"] <= step
        and each.get("stage") not in later_stages
        and each["step"] != not_evaluated
    ]
    _write(output, {**found, "answers": kept})


def _write(output: Path, samples: Samples) -> None:
    write_whole(output / FILE, json.dumps(samples, ensure_ascii=False, indent=1) + "\n")
