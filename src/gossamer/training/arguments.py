"""Turns what the user gave into the settings of a run, and refuses early what can be refused.

torch, TRL and PEFT take seconds to load; a mistyped name is to be told before that.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.basemodel.find import require_known
from gossamer.errors import CheckpointError, SettingError
from gossamer.methods import parse_settings
from gossamer.training.data.source import find_file
from gossamer.training.outputs.run_folder import check_free, is_run
from gossamer.training.outputs.run_record import FEDERATE, FILE, TUNE, command_of, read_config
from gossamer.training.outputs.trackers import check_trackers
from gossamer.training.settings import RunSettings, assemble


def collect(
    config: str | Path | None,
    options: Mapping[str, Any],
    assignments: Mapping[str, Any],
    *,
    resume: bool,
) -> tuple[RunSettings, dict[str, Any]]:
    """Collect the settings, and what the config file recorded of the run that it belongs to."""
    output = options.get("output")
    if config is None and resume:
        if output is None:
            raise SettingError("--resume needs --output, the folder of the run to go on with")
        check_resumable(Path(output))
        config = Path(output) / FILE
    values, sections = read_config(Path(config)) if config is not None else ({}, {})
    return assemble(values, options, assignments), sections.get("recorded", {})


def check_names(settings: RunSettings, *, resume: bool, overwrite: bool) -> None:
    """Raise what a run would raise because of a name: of method, folder, base model or data."""
    parse_settings(settings.method, settings.method_settings)
    output = Path(settings.output)
    if resume:
        check_resumable(output)
    else:
        check_start(settings)
        check_free(output, overwrite=overwrite)
    check_trackers(settings)
    require_known(settings.model)
    for name in (settings.data, settings.eval_data):
        if name is not None:
            find_file(name)


def check_start(settings: RunSettings) -> None:
    """Raise `SettingError` if the run would replace the one that it goes on from."""
    start, output = settings.start_from, Path(settings.output)
    if start is not None and Path(start).resolve() == output.resolve():
        raise SettingError(
            f"start_from '{start}' is the folder of --output {output}, whose run would be replaced "
            "by the one that goes on from it; choose another --output"
        )


def check_resumable(output: Path, *, command: str = TUNE) -> None:
    """Raise `CheckpointError` unless a run of `command` has begun in `output`."""
    if not is_run(output):
        raise CheckpointError(
            f"nothing to resume: {output} holds no run (no {FILE}); leave out --resume to start one"
        )
    values, _ = read_config(output / FILE)
    if (begun_by := command_of(values)) != command:
        kind = "a federated run" if begun_by == FEDERATE else "a run of one machine"
        raise CheckpointError(
            f"{output} holds {kind}; go on with it by: gossamer {begun_by} --output {output} "
            "--resume"
        )
