"""PEFT's configuration of ReFT."""

from dataclasses import dataclass
from typing import Literal

from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig

Variant = Literal["loreft", "direft", "nodireft"]
VARIANTS = ("loreft", "direft", "nodireft")
PEFT_TYPE = "GOSSAMER_REFT"


@dataclass
class ReftConfig(GossamerConfig):
    """LoReFT, DiReFT and NodiReFT for `peft.get_peft_model` (arXiv 2404.03592)."""

    tuner_type = PEFT_TYPE

    variant: str = "loreft"
    """loreft: h + Rᵀ(W h + b - R h), R with orthonormal rows. direft, nodireft: h + Rᵀ(W h + b)."""
    rank: int = 8
    layers: list[int] | None = None
    """Numbers of the decoder blocks whose output is edited, from 0; None: all."""
    first_positions: int = 7
    last_positions: int = 7
    tied: bool = True
    """One edit for the first and the last positions of a block; False: one for each group."""
    orthogonal: bool | None = None
    """Whether R keeps orthonormal rows; None: in loreft only, which cannot do without."""
    dropout: float = 0.0
    start: str = "random"
    """random: as published; identity: the model begins as its base."""

    def __post_init__(self) -> None:
        instead = "layers, the numbers of the decoder blocks to edit"
        if not self._follows_layers():
            self.refuse(instead, "target_modules")
        self.refuse(instead, "exclude_modules", "layers_to_transform", "layers_pattern")
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant '{self.variant}'; choose one of {', '.join(VARIANTS)}")
        if self.orthogonal is None:
            self.orthogonal = self.variant == "loreft"
        if self.orthogonal and self.variant == "nodireft":
            raise ConfigError("orthogonal: nodireft has free projections; use variant direft")
        if not self.orthogonal and self.variant == "loreft":
            raise ConfigError("orthogonal: the projection of loreft has orthonormal rows always")
        if self.start not in ("random", "identity"):
            raise ConfigError(f"start '{self.start}'; choose random or identity")
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank}: must be at least 1")
        if min(self.first_positions, self.last_positions) < 0 or self.positions == 0:
            raise ConfigError(
                f"first_positions = {self.first_positions}, last_positions = "
                f"{self.last_positions}: neither may be negative, and one must be above 0"
            )
        # One group of positions has one edit, whatever was asked for.
        self.tied = self.tied or 0 in (self.first_positions, self.last_positions)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}: must be at least 0 and below 1")

    def _follows_layers(self) -> bool:
        """Whether `target_modules` is what `set_layers` writes: from a file, or in use before."""
        targets, layers = self.target_modules, self.layers
        return isinstance(targets, str) and bool(layers) and targets.endswith(_pattern(layers))

    def set_layers(self, path: str, layers: list[int]) -> None:
        """Edit these blocks of the list of blocks at `path`."""
        self.layers = layers
        self.target_modules = path.replace(".", r"\.") + _pattern(layers)

    @property
    def positions(self) -> int:
        """Return the most tokens of a prompt that are edited."""
        return self.first_positions + self.last_positions

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups of positions with edits of their own, as infixes of names."""
        return ("",) if self.tied else ("", "last_")


def _pattern(layers: list[int] | None) -> str:
    return rf"\.({'|'.join(map(str, layers or []))})"
