"""SLoRA's tuner as PEFT knows it."""

from dataclasses import dataclass
from typing import ClassVar

from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig


@dataclass
class SloraConfig(GossamerConfig):
    """Stage 1 of SLoRA (`r` 0: single entries learn), or stage 2 with the residual kept (`r` > 0:
    low-rank factors learn on top of the entries, which are frozen)."""

    tuner_type: ClassVar[str] = "GOSSAMER_SLORA"

    density: float = 0.01
    """Share of the entries of each matrix that learn in stage 1."""
    seed: int = 0
    """The mask follows from it and from the layers' names."""
    r: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density}: must be above 0 and at most 1")
        if self.r < 0:
            raise ConfigError(f"r = {self.r}: must not be negative")
