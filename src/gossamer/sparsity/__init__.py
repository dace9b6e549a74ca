"""Contextual sparsity: compute less of the frozen base while adapters learn (SparseLoRA).

For each batch and layer the channels that matter are found, and the frozen weights multiply only
those, forward and backward; adapters stay whole. Source: arXiv 2506.16500. Or, which is ours,
everything is computed going forward, and frozen products go back for the tokens of large gradients.

    handle = sparsify(model, load_plan("llama3-8b-math10k"), total_steps=1000)
    ...                      # handle.set_step(step) before each optimizer step
    handle.undo()

With transformers' or TRL's trainers, `SparseComputeCallback(plan)` does all three.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossamer.sparsity.apply import SparseCompute, sparsify
    from gossamer.sparsity.callback import SparseComputeCallback
    from gossamer.sparsity.plan import Shares, SparsityPlan, load_plan, published_plans

__all__ = [
    "Shares",
    "SparseCompute",
    "SparseComputeCallback",
    "SparsityPlan",
    "load_plan",
    "published_plans",
    "sparsify",
]

# Where each public name lives; imported when first used, since torch takes seconds to load.
_HOMES = {
    "Shares": "gossamer.sparsity.plan",
    "SparseCompute": "gossamer.sparsity.apply",
    "SparseComputeCallback": "gossamer.sparsity.callback",
    "SparsityPlan": "gossamer.sparsity.plan",
    "load_plan": "gossamer.sparsity.plan",
    "published_plans": "gossamer.sparsity.plan",
    "sparsify": "gossamer.sparsity.apply",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer.sparsity' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
