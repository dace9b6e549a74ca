"""A base model before a run of SMT: probe it, and the optimizer as released."""

from typing import Any

import torch
from peft import TaskType

from gossamer.methods.method import MethodContext
from gossamer.methods.smt.config import SmtSettings
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import Chosen, choose, count_weights, select_blocks, target_layers


def probed_config(model: Any, settings: SmtSettings, context: MethodContext) -> SmtConfig:
    """The PEFT configuration with the blocks that the run's first batches point to."""
    if next(model.parameters()).is_meta:
        chosen = any_blocks(model, settings)
    else:
        was_training = model.training
        if context.gradient_checkpointing:
            # Checkpoints are only made in training mode.
            model.activation_checkpointing_enable()
            model.train()
        chosen = select_blocks(model, context.probe_batches(settings.probe_batches), settings)
        if context.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.train(was_training)
    return SmtConfig(task_type=TaskType.CAUSAL_LM, blocks=chosen)


def any_blocks(model: Any, settings: SmtSettings) -> Chosen:
    """As many blocks as would be chosen, for a model without weights."""
    layers = target_layers(model, settings)
    sums = {path: model.get_submodule(path).weight for paths in layers.values() for path in paths}
    return choose(sums, layers, count_weights(model), settings)


def adam(model: Any, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what learns, with the betas of the released code."""
    learning = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        learning, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay
    )
