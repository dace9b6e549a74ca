"""The run folder: who may write into it, and how the result gets there whole."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gossamer.adapters.layout import CONFIG_FILE, WEIGHTS_FILE
from gossamer.errors import SettingError
from gossamer.files import replace_file, storing
from gossamer.training.outputs import checkpoint, metrics, run_record, samples
from gossamer.training.outputs.trackers import TENSORBOARD_FOLDER

MODEL_CARD = "README.md"
LOSS_CURVE = "curve.png"
# What makes a folder an adapter, or a model, to those who look into it: removed first, put last.
_MARKS = (CONFIG_FILE, "config.json")
_OWN_FILES = (metrics.FILE, samples.FILE, LOSS_CURVE, MODEL_CARD, WEIGHTS_FILE)


def is_run(output: Path) -> bool:
    """Whether a run has begun in that folder."""
    return (output / run_record.FILE).is_file()


def check_free(output: Path, *, overwrite: bool) -> None:
    """Raise `SettingError` unless a new run may go into `output`."""
    if output.exists() and not output.is_dir():
        raise SettingError(f"--output {output} is a file; give a folder")
    if is_run(output):
        if not overwrite:
            raise SettingError(
                f"--output {output} already holds a run; add --resume to go on with it, "
                "--overwrite to replace it, or choose another folder"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise SettingError(
            f"--output {output} is not empty and holds no run; choose another folder"
        )


def clear_run(output: Path) -> None:
    """Remove a former run from `output`; files that it did not write stay."""
    if not is_run(output):
        return
    _, sections = run_record.read_config(output / run_record.FILE)
    published = sections.get("result", {}).get("files", [])
    for name in (*_MARKS, *published, *_OWN_FILES):
        (output / Path(name).name).unlink(missing_ok=True)
    for folder in (checkpoint.FOLDER, TENSORBOARD_FOLDER):
        shutil.rmtree(output / folder, ignore_errors=True)
    (output / run_record.FILE).unlink()


def make_run_folder(output: Path) -> None:
    """Create `output`; raises `StorageError` where that is impossible."""
    with storing(f"cannot write to --output {output}"):
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".write-test"
        probe.touch()
        probe.unlink()


def publish(output: Path, write: Callable[[Path], None]) -> list[str]:
    """Put the files that `write` makes at the top of `output`, each whole, the marks last.

    A server that watches the folder sees no adapter, or all of it. Returns the files' names.
    """
    scratch = output / ".result.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        write(scratch)
        files = sorted(scratch.iterdir(), key=lambda file: (file.name in _MARKS, file.name))
        for file in files:
            # safetensors makes files that their owner alone may read; a server may be another user.
            file.chmod(0o666 & ~_umask())
            replace_file(file, output / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [file.name for file in files]


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
