"""Reports the figures of a run to trackers: TensorBoard, Trackio, Weights & Biases.

By transformers' own callbacks. Nothing is reported unless the run's settings name a tracker.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gossamer.extras import require
from gossamer.training.settings import RunSettings

TENSORBOARD_FOLDER = "tensorboard"


def check_trackers(settings: RunSettings) -> None:
    """Raise `MissingExtraError` if a tracker that `settings` name is not installed."""
    for name in settings.report_to:
        require(f"report_to={name}", name)


def tracker_callbacks(settings: RunSettings, *, start: int) -> list[Any]:
    """The trainer callbacks of the run's trackers, for a trainer whose first step follows `start`.

    TensorBoard's files are in the run folder; what an interrupted run wrote there after `start` is
    marked as void. The others begin a run named as the folder is, in the project "gossamer", or
    go on with one as their own environment variables say.
    """
    return [_TRACKERS[name](settings, start) for name in settings.report_to]


def reporting_arguments(settings: RunSettings) -> dict[str, Any]:
    """Training arguments that name the run to trackers; Trackio's figures stay on this machine."""
    if not settings.report_to:
        return {}
    from transformers import TrainingArguments

    wanted = {
        "project": "gossamer",
        "run_name": Path(settings.output).absolute().name,
        "trackio_space_id": None,
        "trackio_static_space_id": False,
    }
    # Older versions lack some.
    return {name: value for name, value in wanted.items() if hasattr(TrainingArguments, name)}


def _tensorboard(settings: RunSettings, start: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    writer: Any = SummaryWriter  # untyped
    folder = Path(settings.output) / TENSORBOARD_FOLDER
    return TensorBoardCallback(writer(log_dir=str(folder), purge_step=start + 1 if start else 0))


def _wandb(settings: RunSettings, start: int) -> Any:
    from transformers.integrations import WandbCallback

    # The callback asks the environment alone.
    os.environ.setdefault("WANDB_PROJECT", "gossamer")
    return WandbCallback()


def _trackio(settings: RunSettings, start: int) -> Any:
    from transformers.integrations import TrackioCallback

    return TrackioCallback()


_TRACKERS: dict[str, Callable[[RunSettings, int], Any]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
