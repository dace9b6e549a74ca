"""The tuner of `sparse_lora` as PEFT knows it."""

from dataclasses import dataclass
from typing import ClassVar

from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig


@dataclass
class SparseLoraConfig(GossamerConfig):
    """A low-rank update of which only entries under a mask act.

    The mask is random at first; `choose_entries` sets it by the gradients of some batches.
    """

    tuner_type: ClassVar[str] = "GOSSAMER_SPARSE_LORA"

    r: int = 16
    lora_alpha: float = 32.0
    """The update is scaled by lora_alpha / r."""
    density: float = 0.01
    """Share of the entries of each matrix under the mask."""
    seed: int = 0
    """A random mask follows from it and from the layers' names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density}: must be above 0 and at most 1")
        if self.r < 1:
            raise ConfigError(f"r = {self.r}: must be at least 1")
