"""The settings of `gossamer eval`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gossamer.adapters.layout import CONFIG_FILE
from gossamer.errors import AdapterNotFoundError
from gossamer.settings import Settings


class EvalSettings(Settings):
    """What is scored, on which tasks, and what the engine may use for it."""

    model: str
    """Base model: alias, folder or hub id."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Tasks: names of lm-evaluation-harness, whose rows it fetches, or YAML files of your own,
    which need no network."""
    adapters: tuple[Path, ...] = ()
    """Adapter folders, or folders of them; all are scored, in one batch with the base model."""
    include: tuple[Path, ...] = ()
    """Folders with YAML files of more tasks, which may then be named."""
    output: Path | None = None
    """Folder for scores.json, scores.md and scores.png; unset: nothing is written."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many rows of each task, always the first ones."""
    few_shot: int | None = Field(default=None, ge=0)
    """Solved examples before each question; unset: what the task says."""
    chat: bool = False
    """Lay questions out with the model's chat template."""
    seed: int = 1234
    """Chooses the solved examples."""
    memory_gib: float | None = Field(default=None, gt=0)
    """GiB of the engine's pool; unset: its own default."""
    max_context: int | None = Field(default=None, ge=2)
    """Longest text in tokens; longer ones lose their beginning. Unset: what the model knows."""
    device: str = "auto"
    """Where the engine computes: auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights, keys and values."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the engine; unset: its own default."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes among which the model is divided."""

    def check(self) -> None:
        """Raise `AdapterNotFoundError` if one of the folders holds no adapter, whose scores would
        be missing without a word."""
        # Loads torch, which takes seconds.
        from gossamer.adapters.inspect import find_adapters

        for folder in self.adapters:
            if not find_adapters(folder):
                raise AdapterNotFoundError(
                    f"{folder} holds no adapter to score (no {CONFIG_FILE} in it or in a folder in "
                    "it); give the folder of an adapter, or a whole model as the model to score"
                )
