"""Sparse compute in any trainer of transformers or TRL."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gossamer.errors import SettingError
from gossamer.sparsity.apply import SparseCompute, sparsify
from gossamer.sparsity.plan import SparsityPlan, load_plan


class SparseComputeCallback(TrainerCallback):
    """Computes by `plan` from the first step to the last, and undoes it at the end.

    `SFTTrainer(..., callbacks=[SparseComputeCallback("llama3-8b-math10k")])`. The other arguments
    are those of `sparsify`; the trainer knows its own number of steps. Raises what `sparsify`
    raises, when training begins.
    """

    def __init__(
        self,
        plan: SparsityPlan | str | os.PathLike[str],
        *,
        total_steps: int | None = None,
        digest: str | None = None,
        cache: Path | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan if isinstance(plan, SparsityPlan) else load_plan(plan)
        self.handle: SparseCompute | None = None
        """The model under the plan, while training; else None."""
        self._options: dict[str, Any] = {"digest": digest, "cache": cache, "note": note}
        self._total_steps = total_steps

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if getattr(args, "packing", False) or getattr(args, "padding_free", False):
            raise SettingError(
                "sparse compute: packed rows have no contiguous context; train with packing=False "
                "and padding_free=False"
            )
        self.handle = sparsify(
            kwargs["model"],
            self.plan,
            total_steps=self._total_steps or state.max_steps,
            **self._options,
        )

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.handle is not None:
            self.handle.set_step(state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.handle is not None:
            self.handle.undo()
