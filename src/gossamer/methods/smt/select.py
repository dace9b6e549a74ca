"""Which blocks learn: budgets, ranking, and the choice from a model and some batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import TaskType
from torch import Tensor

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.probe_loss import checkpointed
from gossamer.methods.common.targets import linear_paths, resolve_targets
from gossamer.methods.smt.blocks import Block, block_scores, cut
from gossamer.methods.smt.budget import PARTS, BlockBudget, budget_of
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.settings import SmtSettings
from gossamer.methods.smt.statistics import GradientSums

Chosen = dict[str, list[Block]]
"""Blocks that learn, by path of the linear layer; layers without any are left out."""


def select_blocks(
    model: Any, batches: Iterable[Mapping[str, Any]], settings: SmtSettings | None = None
) -> Chosen:
    """Find the blocks of `model` that matter most by the gradients of `batches`.

    Each batch is what the model's forward takes, labels included (token ids [rows, tokens]). The
    gradients of all batches are summed per matrix as the backward pass meets them, and freed; no
    weight moves, `requires_grad` is as before afterwards. Where several processes train, each
    gives its own batches and gets the same blocks. Raises `SettingError` if the settings do not
    fit.
    """
    settings = settings or SmtSettings()
    layers = target_layers(model, settings)
    with GradientSums(model, [*layers["attention"], *layers["mlp"]], settings) as sums:
        for batch in batches:
            sums.add(batch)
    return choose(sums.reduced(), layers, budget_of(model, settings), settings)


def target_layers(model: Any, settings: SmtSettings) -> dict[str, list[str]]:
    """Return the layers of each part ("attention", "mlp") whose budget is not zero, by path."""
    rank = settings.lora_rank or 0
    wanted = {
        "attention": (rank or settings.attention_ratio, settings.attention_modules),
        "mlp": (rank or settings.mlp_ratio, settings.mlp_modules),
    }
    if not any(ratio for ratio, _ in wanted.values()):
        raise SettingError("attention_ratio and mlp_ratio are both 0: nothing would learn")
    found = {part: _paths(model, names) if ratio else [] for part, (ratio, names) in wanted.items()}
    both = set(found["attention"]) & set(found["mlp"])
    if both:
        raise SettingError(f"'{min(both)}' is in both attention_modules and mlp_modules")
    return found


def _paths(model: Any, names: Sequence[str]) -> list[str]:
    ends = resolve_targets(model, names)
    paths = [p for p in linear_paths(model) if any(p == e or p.endswith(f".{e}") for e in ends)]
    for path in paths:
        layer = model.get_submodule(path)
        if not hasattr(layer, "in_features"):
            raise SettingError(
                f"method 'smt' needs linear layers with weights [out, in]; '{path}' is a "
                f"{type(layer).__name__}"
            )
    return paths


def choose(
    sums: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[str]],
    budget: BlockBudget,
    settings: SmtSettings,
) -> Chosen:
    """Choose blocks by summed gradients [out, in] by path; parts are ranked apart."""
    chosen: Chosen = {}
    for part in PARTS:
        if not layers[part]:
            continue
        scored = _scores({path: sums[path] for path in layers[part]}, budget.block_size, settings)
        picked = _pick(scored, budget.weights[part], settings)
        if not picked:
            raise SettingError(_too_small(part, budget, len(layers[part]), settings))
        chosen |= picked
    return chosen


Scored = dict[str, list[tuple[float, Block]]]
"""Blocks with their scores, by path of the layer."""


def _pick(scored: Scored, budget: int, settings: SmtSettings) -> Chosen:
    if settings.quota == "global":
        return _best(scored, budget)
    chosen: Chosen = {}
    for path, blocks in scored.items():
        chosen |= _best({path: blocks}, budget // len(scored))
    return chosen


def _best(scored: Scored, budget: int) -> Chosen:
    """Blocks from the highest score down, each if it still fits into `budget` weights."""
    every = [(path, score, b) for path, blocks in scored.items() for score, b in blocks]
    chosen: Chosen = {}
    for path, _, block in sorted(every, key=lambda one: -one[1]):
        if block.size <= budget:
            budget -= block.size
            chosen.setdefault(path, []).append(block)
    # Whole blocks first, equal shapes together: products run over one shape at a time.
    return {path: sorted(c, key=_by_shape) for path, c in sorted(chosen.items())}


def _scores(sums: Mapping[str, Tensor], size: int, settings: SmtSettings) -> Scored:
    scored: Scored = {}
    for path, total in sums.items():
        blocks = cut(_shape(total), size)
        # A model that is only counted has no gradients: any blocks will do.
        found = (
            [0.0] * len(blocks)
            if total.is_meta
            else block_scores(total, size, settings.criterion).tolist()
        )
        scored[path] = list(zip(found, blocks, strict=True))
    return scored


def _by_shape(block: Block) -> tuple[int, int, int, int]:
    return -block.height, -block.width, block.row, block.column


def _shape(matrix: Tensor) -> tuple[int, int]:
    return matrix.shape[0], matrix.shape[1]


def _too_small(part: str, budget: BlockBudget, count: int, settings: SmtSettings) -> str:
    where = "" if settings.quota == "global" else f" in each of {count} matrices"
    size, stated = budget.block_size, budget.stated[part]
    name = stated.partition(" ")[0]
    return (
        f"{stated} is less than one block of {size}x{size}{where}; lower block_size or raise {name}"
    )


def probed_config(model: Any, settings: SmtSettings, context: MethodContext) -> SmtConfig:
    """Make the PEFT configuration with the blocks that the run's first batches point to."""
    if next(model.parameters()).is_meta:
        chosen = any_blocks(model, settings)
    else:
        with checkpointed(model, context.gradient_checkpointing):
            chosen = select_blocks(model, context.probe_batches(settings.probe_batches), settings)
    return SmtConfig(task_type=TaskType.CAUSAL_LM, blocks=chosen)


def any_blocks(model: Any, settings: SmtSettings) -> Chosen:
    """Any blocks, as many as would be chosen, for a model without weights."""
    layers = target_layers(model, settings)
    sums = {path: model.get_submodule(path).weight for paths in layers.values() for path in paths}
    return choose(sums, layers, budget_of(model, settings), settings)


def adam(model: Any, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Make AdamW over what learns, with the betas of the released code."""
    learning = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        learning, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay
    )
