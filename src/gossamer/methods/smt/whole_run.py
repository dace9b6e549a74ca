"""SMT with real full fine-tuning first, as published: the base moves and is stored as well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from gossamer.adapters.layout import PREFIX
from gossamer.methods.common.files import write_model
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.ranks import add_over_ranks
from gossamer.methods.smt.blocks import Block
from gossamer.methods.smt.budget import budget_of
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import any_blocks, choose, target_layers
from gossamer.methods.smt.settings import SmtSettings

STATE_FILE = "smt_state.safetensors"
SUMS_FILE = "smt_sums.safetensors"
BLOCKS_FILE = "smt_blocks.safetensors"


class RunningSums:
    """Sums of the gradients of chosen matrices while the whole model trains.

    The gradient of each backward pass is added as it is, before clipping and whatever the number of
    micro-batches, in float32.
    """

    def __init__(self, model: Any, paths: Sequence[str], settings: SmtSettings) -> None:
        self.sums: dict[str, Tensor] = {}
        self._handles = []
        for path in paths:
            weight = model.get_submodule(path).weight
            if weight.is_meta:
                continue
            device = "cpu" if settings.accumulate_on == "cpu" else weight.device
            self.sums[path] = torch.zeros(weight.shape, device=device)
            self._handles.append(weight.register_hook(self._adder(path)))

    def _adder(self, path: str) -> Any:
        def add(gradient: Tensor) -> None:
            total = self.sums[path]
            total += gradient.to(total)

        return add

    def stop(self) -> None:
        """Stop watching gradients."""
        for handle in self._handles:
            handle.remove()


def start_warm_up(model: Any, settings: SmtSettings) -> tuple[Any, RunningSums]:
    """Let all weights learn, and sum the gradients of those that may be chosen."""
    model.requires_grad_(True)
    layers = target_layers(model, settings)
    return model, RunningSums(model, [*layers["attention"], *layers["mlp"]], settings)


def start_blocks(model: Any, sums: RunningSums, settings: SmtSettings) -> PeftModel:
    """Freeze the moved base and let the chosen blocks learn."""
    sums.stop()
    if next(model.parameters()).is_meta:
        chosen = any_blocks(model, settings)
    else:
        device = next(model.parameters()).device
        add_over_ranks(sums.sums.values(), device)
        budget = budget_of(model, settings)
        chosen = choose(sums.sums, target_layers(model, settings), budget, settings)
    sums.sums.clear()
    return _with_blocks(model, chosen)


def _with_blocks(model: Any, blocks: dict[str, list[Block]]) -> PeftModel:
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None
    return get_peft_model(model, SmtConfig(task_type=TaskType.CAUSAL_LM, blocks=blocks))


def save_state(model: Any, sums: RunningSums, folder: Path) -> None:
    """Write all weights, the blocks if there are any, and the sums so far."""
    save_model(model, str(folder / STATE_FILE))
    if sums.sums:
        save_file(sums.sums, folder / SUMS_FILE)


def restore_state(model: Any, sums: RunningSums, folder: Path) -> None:
    """Read what `save_state` wrote into a model of the same stage."""
    load_model(model, str(folder / STATE_FILE))
    if (folder / SUMS_FILE).is_file():
        for path, total in load_file(folder / SUMS_FILE).items():
            sums.sums[path].copy_(total)


def blocks_as_saved(model: Any, sums: RunningSums, folder: Path) -> PeftModel:
    """Make the second stage's model with the blocks that `folder` names, its weights unset."""
    sums.stop()
    sums.sums.clear()
    blocks: dict[str, list[Block]] = {}
    with safe_open(folder / STATE_FILE, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            path, mark, _ = key.partition(".smt_blocks.")
            if mark:
                path = path.removeprefix(PREFIX)
                blocks[path] = [Block(*row) for row in file.get_tensor(key).tolist()]
    return _with_blocks(model, blocks)


def export_model(model: Any, folder: Path, context: MethodContext) -> None:
    """Write the moved base with the blocks added as a whole model; beside it the blocks.

    The blocks' file has the tensors `<path>.smt_blocks` and `<path>.smt_values` of an adapter; they
    are changes to the moved base and mean nothing to the base the run began with.
    """
    blocks = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {key: tensor.contiguous() for key, tensor in blocks.items()},
        folder / BLOCKS_FILE,
        metadata={"format": "pt"},
    )
    write_model(model.merge_and_unload(), folder, context)
