"""Plans that shorten the way back alone: exact going forward, so they cost the loss nothing."""

from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.search.work import RunWork

LARGEST_BACK = 0.9
"""The largest share of sparse tokens whose way back is left out, unless one is asked for: by then
the gradient of a batch points where the whole one does to a cosine of about 0.9."""
_PARTS = 1000


def drops_channels(plan: SparsityPlan) -> bool:
    """Whether the forward pass under `plan` is another than the whole one."""
    return bool(plan.mlp or plan.qk or plan.vo)


def with_back(options: SparsityPlan, layers: int, back: float) -> SparsityPlan:
    """`options`, with the share `back` in each of `layers` layers."""
    everywhere = {f"0-{layers - 1}": back} if back else {}
    return options.updated({"back": everywhere, "num_layers": layers})


def back_alone(work: RunWork, target: float) -> SparsityPlan | None:
    """The plan of the smallest such share with which a run keeps at most `target` of its
    operations; None if even `LARGEST_BACK` keeps more."""
    low, high = 0, round(LARGEST_BACK * _PARTS)

    def plan(parts: int) -> SparsityPlan:
        return with_back(work.options, work.shape.layers, parts / _PARTS)

    if work.kept(plan(high)) > target:
        return None
    while low + 1 < high:
        middle = (low + high) // 2
        if work.kept(plan(middle)) <= target:
            high = middle
        else:
            low = middle
    return plan(high)
