"""PEFT's configuration of bottleneck adapters."""

from dataclasses import dataclass
from typing import ClassVar

from gossamer.methods.common.peft_tuner import GossamerConfig


@dataclass
class BottleneckConfig(GossamerConfig):
    """PEFT configuration of a bottleneck behind each layer of `target_modules`."""

    tuner_type: ClassVar[str] = "GOSSAMER_BOTTLENECK"

    width: int = 64
    activation: str = "relu"
    scale: float = 1.0
