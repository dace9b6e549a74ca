"""What is not public in the trainers of transformers and TRL, under names and meanings of ours.

Nothing public does what a run needs of it, so it is overridden or called here and nowhere else (but
for what DPO alone has, in `preference_trainer.py`): a version that renames it is answered in this
file. What is called in its place is declared by `RunHooks` and written by the trainers of a run.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import Sampler
from transformers import Trainer


class RunHooks(Trainer):
    """Turns transformers' calls into the ones that a run answers."""

    def row_order(self) -> Sampler[int]:
        """The order in which rows are trained on."""
        raise NotImplementedError

    def check_gradient(self, norm: float) -> None:
        """Judge the norm of a step's gradient before the optimizer sees it."""
        raise NotImplementedError

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the step that has just ended."""
        raise NotImplementedError

    def load_optimizer(self, checkpoint: Path) -> None:
        """Go on with the optimizer of `checkpoint` by `restore_optimizer`, or begin a new one."""
        raise NotImplementedError

    def save_training_state(self, folder: Path) -> None:
        """Write the optimizer and the schedule into `folder`."""
        self._save_optimizer_and_scheduler(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def random_state(self) -> dict[str, bytes]:
        """This process's random state, as files by name that belong into a checkpoint."""
        with TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            return {file.name: file.read_bytes() for file in Path(folder).iterdir()}

    def restore_optimizer(self, checkpoint: Path) -> None:
        """Read optimizer and schedule from what `save_training_state` wrote."""
        super()._load_optimizer_and_scheduler(str(checkpoint))

    def trl_figures(self, mode: str) -> dict[str, list[float]]:
        """What TRL's trainer has measured in mode "train" or "eval" and not logged yet, by name."""
        figures: dict[str, list[float]] = self._metrics[mode]
        return figures

    def _send_telemetry(self) -> None:
        """Report nothing to anyone."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.row_order()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))
        self.check_gradient(norm)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self.save_checkpoint()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Do nothing: the run has built the model from the checkpoint."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.load_optimizer(Path(checkpoint))


def use_one_gpu(arguments: Any) -> None:
    """Let a trainer with these arguments use one GPU, however many are visible."""
    arguments._n_gpu = 1


def as_before_autocast(model: Any) -> Any:
    """Undo what Accelerate did to `model` for bfloat16, so that the next trainer does it again.

    Accelerate can unwrap the forward itself, but then it takes transformers' own decorators off as
    well and goes on believing that the model is prepared: the next stage would compute in float32.
    """
    attributes = vars(model)
    attributes.pop("_is_accelerate_prepared", None)
    original = attributes.pop("_original_forward", None)
    if original is not None:
        attributes.pop("forward", None)
        if model.forward != original:
            model.forward = original
    return model
