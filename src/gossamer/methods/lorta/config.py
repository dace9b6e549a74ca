"""PEFT's configuration of LoRTA."""

from dataclasses import dataclass

from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig

PEFT_TYPE = "GOSSAMER_LORTA"
TYPES = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The matrices of a block that the tensor spans, in the order of its rows."""


@dataclass
class LortaConfig(GossamerConfig):
    """LoRTA for `peft.get_peft_model` (arXiv 2410.04060)."""

    tuner_type = PEFT_TYPE

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    init_scale: float = 0.0
    """Factors of heads, matrices and layers start uniform up to sqrt(6 / ((1 + 5 x²) rank))."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_modules is None:
            self.target_modules = set(TYPES)  # type: ignore[assignment]
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank}: must be at least 1")
        if self.alpha <= 0:
            raise ConfigError(f"alpha = {self.alpha}: must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}: must be at least 0 and below 1")
        if self.init_scale < 0:
            raise ConfigError(f"init_scale = {self.init_scale}: must not be negative")
        wanted = self.target_modules
        if isinstance(wanted, str) or not wanted or set(wanted) - set(TYPES):
            raise ConfigError(
                f"target_modules {wanted if isinstance(wanted, str) else sorted(wanted or [])}: "
                f"lorta spans the matrices of attention; choose among {', '.join(TYPES)}"
            )

    @property
    def types(self) -> list[str]:
        """Return the matrices that are adapted, in the order of the tensor's rows."""
        return [name for name in TYPES if name in (self.target_modules or ())]
