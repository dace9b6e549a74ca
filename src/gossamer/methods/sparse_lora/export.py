"""The result of `sparse_lora` in the layout of PEFT's SHiRA, which plain PEFT loads."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, ShiraConfig
from torch import Tensor

from gossamer.adapters.layout import PREFIX
from gossamer.errors import SettingError
from gossamer.methods.common.sparse_delta.mask import num_entries
from gossamer.methods.sparse_lora.layer import SparseLoraLinear


def shira_rank(shapes: Mapping[str, tuple[int, int]], density: float) -> int:
    """Compute the `r` that PEFT's SHiRA needs for masks of that density.

    It gives each matrix r (h_out + h_in) entries, the same r everywhere; so r is what the fullest
    matrix needs. Raises `SettingError` naming a matrix which cannot hold them.
    """
    rank = max(-(-num_entries(shape, density) // sum(shape)) for shape in shapes.values())
    for path, (h_out, h_in) in shapes.items():
        if rank * (h_out + h_in) > h_out * h_in:
            raise SettingError(
                f"density = {density}: SHiRA's layout would need {rank * (h_out + h_in)} entries "
                f"of {path}, which has {h_out * h_in}; take a lower density or fewer target_modules"
            )
    return rank


def as_shira(model: PeftModel, name: str = "default") -> tuple[ShiraConfig, dict[str, Tensor]]:
    """Return configuration and weights of the same change as a SHiRA adapter of the base.

    A matrix whose mask has fewer entries than SHiRA's layout wants is filled up with zeros at
    places that are free, which changes nothing.
    """
    config = model.peft_config[name]
    layers = {
        path: layer
        for path, layer in model.base_model.model.named_modules()
        if isinstance(layer, SparseLoraLinear)
    }
    rank = shira_rank({path: layer.shape for path, layer in layers.items()}, config.density)
    weights = {}
    for path, layer in layers.items():
        index, values = layer.index(name).cpu(), layer.values(name).detach().float().cpu()
        index, values = _fill(index, values, layer.shape, rank * sum(layer.shape))
        weights[f"{PREFIX}{path}.shira_indices"] = index
        weights[f"{PREFIX}{path}.shira_weight"] = values
    shira = ShiraConfig(
        r=rank,
        random_seed=config.seed,
        task_type=config.task_type,
        target_modules=_targets(config, list(layers)),
        inference_mode=True,
    )
    return shira, weights


def _fill(
    index: Tensor, values: Tensor, shape: tuple[int, int], count: int
) -> tuple[Tensor, Tensor]:
    """Fill the entries up to `count` with zeros at the first free places."""
    missing = count - len(values)
    if missing == 0:
        return index, values
    taken = index[0].long() * shape[1] + index[1].long()
    # Among the first `count` places at least `missing` are free.
    free = torch.ones(count, dtype=torch.bool)
    free[taken[taken < count]] = False
    more = free.nonzero().flatten()[:missing]
    places = torch.stack([more // shape[1], more % shape[1]]).to(torch.int32)
    return torch.cat([index, places], 1), torch.cat([values, values.new_zeros(missing)])


def _targets(config: Any, paths: list[str]) -> Any:
    """SHiRA cannot name layers by number, only by path."""
    if config.layers_to_transform is not None:
        return sorted(paths)
    targets = config.target_modules
    return sorted(targets) if isinstance(targets, set) else targets
