"""SHiRA: a fixed sparse set of the weights learns (arXiv 2406.13175)."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import ShiraConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.probe_loss import backward, checkpointed
from gossamer.methods.common.ranks import add_over_ranks
from gossamer.methods.common.targets import is_meta, refuse_quantized, select_targets
from gossamer.methods.settings import ShiraSettings


def shira_config(model: Any, settings: Mapping[str, Any], context: MethodContext) -> Any:
    """Choose the mask and make PEFT's config; raises `SettingError` if settings do not fit."""
    checks: Any = torch.sparse.check_sparse_tensor_invariants
    if not checks.is_enabled():
        # Torch's default; when it is set explicitly, torch does not warn in the first forward pass.
        checks.disable()
    targets = select_targets(model, settings["target_modules"], settings["layers"])
    layers = {path: m for path, m in model.named_modules() if _is_target(path, targets)}
    for path, layer in layers.items():
        _check(path, layer, settings["rank"])
    config = ShiraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings["rank"],
        target_modules=targets,
        random_seed=context.seed,
    )
    kind = settings["mask"]
    if kind != "random":
        refuse_quantized(model, "shira", f"mask '{kind}' looks at the weights themselves")
    if is_meta(model):
        # Only to be counted: nothing to choose from.
        config.mask_fn = None
    elif kind == "random":
        config.mask_fn = RandomMask(context.seed)
    else:
        config.mask_fn = TopMask(_scores(model, layers, kind, settings["probe_steps"], context))
    return config


class RandomMask:
    """Another random mask for each layer; PEFT's repeats itself in layers of one shape."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, base_layer: Any, r: int, **kwargs: Any) -> torch.Tensor:
        """0 or 1 for each weight [h_out, h_in], r (h_out + h_in) of them 1."""
        rows, columns = base_layer.out_features, base_layer.in_features
        chosen = torch.randperm(rows * columns, generator=self._generator)[: r * (rows + columns)]
        mask = torch.zeros(rows * columns)
        mask[chosen] = 1
        return mask.reshape(rows, columns).to(base_layer.weight.device)


class TopMask:
    """The entries with the highest scores of each layer."""

    def __init__(self, scores: dict[int, torch.Tensor]) -> None:
        self._scores = scores

    def __call__(self, base_layer: Any, r: int, **kwargs: Any) -> torch.Tensor:
        """0 or 1 for each weight [h_out, h_in], r (h_out + h_in) of them 1."""
        scores = self._scores.pop(id(base_layer))
        mask = torch.zeros(scores.numel(), device=scores.device)
        mask[scores.flatten().topk(r * sum(scores.shape)).indices] = 1
        return mask.reshape(scores.shape)


def _scores(
    model: Any, layers: Mapping[str, Any], kind: str, steps: int, context: MethodContext
) -> dict[int, torch.Tensor]:
    """A score for each weight of `layers`, by the layer's id; the paper's section 3.1."""
    weights = {id(layer): layer.weight for layer in layers.values()}
    if kind == "magnitude":
        return {key: weight.detach().abs().float() for key, weight in weights.items()}
    sums = {key: torch.zeros_like(weight, dtype=torch.float32) for key, weight in weights.items()}
    model.requires_grad_(False)
    handles = []
    for key, weight in weights.items():
        weight.requires_grad_(True)
        handles.append(weight.register_post_accumulate_grad_hook(_adder(sums[key])))
    try:
        with checkpointed(model, context.gradient_checkpointing):
            for batch in context.probe_batches(steps):
                backward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(False)
    add_over_ranks(sums.values(), next(model.parameters()).device)
    if kind == "snip":
        return {key: (sums[key] * weights[key].detach()).abs() for key in sums}
    return {key: total.abs() for key, total in sums.items()}


def _adder(total: torch.Tensor) -> Any:
    def add(weight: Any) -> None:
        # One layer's gradient at a time: the whole model's is never held.
        total.add_(weight.grad)
        weight.grad = None

    return add


def _is_target(path: str, targets: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in targets)


def _check(path: str, layer: Any, rank: int) -> None:
    if not hasattr(layer, "out_features"):
        raise SettingError(f"method 'shira' needs plain linear layers; {path} is none")
    rows, columns = layer.out_features, layer.in_features
    if rank * (rows + columns) > rows * columns:
        most = rows * columns // (rows + columns)
        raise SettingError(
            f"rank {rank} asks for more entries than {path} has ({rows} x {columns}); "
            f"at most {most}"
        )


class Shira(PeftMethod[ShiraSettings]):
    """W' = W + M * D, where the mask M stays as it was chosen and D starts at zero.

    High rank and few entries: adapters can be swapped by changing 1 to 2 % of the weights. Each
    forward pass builds the changed weight, which costs time and a dense gradient.
    """

    name = "shira"
    kind = "sparse"
    settings_type = ShiraSettings
    size_setting = "rank"
    dense_because = "it multiplies by weights that it has changed"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return shira_config(model, self.settings.model_dump(), context)
