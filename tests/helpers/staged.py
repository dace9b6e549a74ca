"""A method of two stages for the tests: LoRA, then its B alone, disturbed by chance in between."""

import torch

from gossamer.methods import Stage
from gossamer.methods.lora import Lora

FIRST = 5
"""Steps of the first stage."""


class Staged(Lora):
    """Learns in two stages. Learning rate: any."""

    name = "staged"
    summary = "for tests"

    def stages(self, context):
        rest = context.total_steps - FIRST
        return [Stage(name="both", steps=FIRST), Stage(name="half", steps=rest, learning_rate=1e-3)]

    def enter_stage(self, model, index, context):
        assert index == 1
        self.sizes = {}
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
            elif "lora_B" in name and not parameter.is_meta:
                parameter.data += 0.02 * torch.randn_like(parameter)
                self.sizes[name] = float(parameter.detach().norm())
        return model

    def stage_report(self, index):
        if index == 0:
            return {}
        return {"mean_size": sum(self.sizes.values()) / len(self.sizes), "sizes": self.sizes}
