"""PEFT's configuration of LaMDA and LaMDA++."""

from dataclasses import dataclass, field

from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig

PEFT_TYPE = "GOSSAMER_LAMDA"


@dataclass
class LamdaConfig(GossamerConfig):
    """LaMDA for `peft.get_peft_model` (arXiv 2406.12832).

    Give the trainer a `gossamer.methods.lamda.freezing.FreezeColumns()` callback: without it B
    learns to the end, and a warning says so.
    """

    tuner_type = PEFT_TYPE

    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0
    allocation: str = "equal"
    """equal: the same rank everywhere; spectrum: LaMDA++."""
    freeze_share: float | None = 0.3
    """Share of the steps after which no column of B learns any more; None: all learn to the end."""
    svd: str = "fast"
    """fast: randomised with power iterations; exact: complete."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Ranks of single layers by their whole path; `spectrum` fills this in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_modules is None and self.layers_to_transform is not None:
            raise ConfigError(
                "layers_to_transform needs a list as target_modules, such as ['q_proj', 'v_proj']; "
                "without one all linear layers of the model are meant"
            )
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank}: must be at least 1")
        if self.alpha <= 0:
            raise ConfigError(f"alpha = {self.alpha}: must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}: must be at least 0 and below 1")
        if self.allocation not in ("equal", "spectrum"):
            raise ConfigError(f"allocation '{self.allocation}'; choose equal or spectrum")
        if self.svd not in ("fast", "exact"):
            raise ConfigError(f"svd '{self.svd}'; choose fast or exact")
        if self.freeze_share is not None and not 0 < self.freeze_share <= 1:
            raise ConfigError(
                f"freeze_share = {self.freeze_share}: must be above 0 and at most 1, or left out"
            )
