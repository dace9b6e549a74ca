"""How many weights of a model may learn, and the size of the blocks in which they are chosen."""

from dataclasses import dataclass
from typing import Any

from gossamer.errors import SettingError
from gossamer.methods.common.targets import linear_paths, resolve_targets
from gossamer.methods.smt.settings import SmtSettings

PARTS = ("attention", "mlp")
SMALL_BLOCK, LARGE_BLOCK, WIDE_MODEL = 64, 256, 2048
"""Edges of a block with `block_size=auto`: the small one below that hidden size."""


@dataclass(frozen=True, slots=True)
class BlockBudget:
    """What the settings mean for one model."""

    block_size: int
    weights: dict[str, int]
    """How many weights may learn in each part ("attention", "mlp"), whole blocks of them."""
    stated: dict[str, str]
    """How the settings state it, by part, for messages."""


def budget_of(model: Any, settings: SmtSettings) -> BlockBudget:
    """Find the budget of `model`; raises `SettingError` if nothing would learn."""
    size = block_size_of(model, settings)
    if settings.lora_rank is not None:
        weights = {part: _lora_weights(model, part, settings.lora_rank) for part in PARTS}
        stated = {part: f"lora_rank = {settings.lora_rank} for {part}" for part in PARTS}
    else:
        total = count_weights(model)
        ratios = {"attention": settings.attention_ratio, "mlp": settings.mlp_ratio}
        weights = {part: int(ratio * total) for part, ratio in ratios.items()}
        stated = {
            part: f"{part}_ratio = {ratio:g} of {total:,} weights" for part, ratio in ratios.items()
        }
    whole = {part: count // size**2 * size**2 for part, count in weights.items()}
    return BlockBudget(block_size=size, weights=whole, stated=stated)


def block_size_of(model: Any, settings: SmtSettings) -> int:
    """The edge of a block: as set, or by the width of the model."""
    if settings.block_size != "auto":
        return settings.block_size
    config = getattr(model, "config", None)
    if config is None:
        raise SettingError(
            f"block_size = auto needs a model with a config that tells its hidden size; a "
            f"{type(model).__name__} has none: give a number"
        )
    return SMALL_BLOCK if config.get_text_config().hidden_size < WIDE_MODEL else LARGE_BLOCK


def _lora_weights(model: Any, part: str, rank: int) -> int:
    """Count the weights of LoRA of that rank on all linear layers of `part`: rank * (out + in)."""
    names = set(resolve_targets(model, part))
    layers = [
        model.get_submodule(path)
        for path in linear_paths(model)
        if path.rpartition(".")[2] in names
    ]
    return rank * sum(layer.out_features + layer.in_features for layer in layers)


def count_weights(model: Any) -> int:
    """Count weights in matrices, embeddings and output head included, tied ones once."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 2:
                # A quantised weight is packed: its own shape says nothing.
                whole = hasattr(module, "in_features") and parameter is module.weight
                size = module.in_features * module.out_features if whole else parameter.numel()
                seen[id(parameter)] = size
    return sum(seen.values())
