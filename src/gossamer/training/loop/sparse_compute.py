"""Sparse compute in a run: its plan checked early, its callback, its figures in the record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.basemodel.cache import cache_home
from gossamer.basemodel.load import load_config
from gossamer.errors import CheckpointError, SettingError
from gossamer.methods import Method, MethodContext
from gossamer.sparsity.callback import SparseComputeCallback
from gossamer.sparsity.family import check_family
from gossamer.sparsity.plan import SparsityPlan, load_plan
from gossamer.training.outputs.listener import Listener, warn
from gossamer.training.settings import RunSettings


def sparse_plan(
    settings: RunSettings, method: Method[Any], context: MethodContext
) -> SparsityPlan | None:
    """The plan of the run, None if it computes densely.

    Raises `SettingError`, `UnknownNameError` or `UnsupportedModelError` if it cannot be followed.
    """
    if settings.sparse_compute is None:
        return None
    plan = load_plan(settings.sparse_compute)
    if method.dense_because is not None:
        raise SettingError(
            f"sparse_compute cannot go with method '{method.name}': {method.dense_because}; use a "
            "method such as lora, or leave sparse_compute out"
        )
    config = load_config(context.base_folder).get_text_config()
    check_family(config)
    plan.all_shares(config.num_hidden_layers)
    return plan


def sparse_callback(
    plan: SparsityPlan | None, context: MethodContext, listener: Listener
) -> SparseComputeCallback | None:
    """The callback that makes the trainer of a stage compute by `plan`."""
    if plan is None:
        return None
    return SparseComputeCallback(
        plan,
        total_steps=context.total_steps,
        digest=context.base_fingerprint,
        cache=predictor_folder(),
        note=lambda text: warn(listener, text),
    )


def predictor_folder() -> Path:
    """The folder where guesses of channels are kept, one file per base model."""
    return cache_home() / "sparsity"


def check_same_plan(
    recorded: Mapping[str, Any], facts: Mapping[str, Any], *, total_changed: bool
) -> None:
    """Raise `CheckpointError` unless a resumed run goes on under the plan that it began with."""
    before, now = recorded.get("sparse_plan"), facts.get("sparse_plan")
    if before != now:
        raise CheckpointError("cannot resume: the plan of sparse_compute has changed since")
    if now is not None and total_changed and 0 < SparsityPlan.parse(now).start < 1:
        raise CheckpointError(
            "cannot resume with another max_steps: the dense start of the sparsity plan is a share "
            "of all steps; only a start of 0 or of whole steps can go on"
        )
