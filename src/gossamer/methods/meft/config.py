"""PEFT's configuration of MEFT."""

import math
from dataclasses import dataclass

import torch

from gossamer.adapters.kinds.networks.two_streams import VARIANTS
from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig

PEFT_TYPE = "GOSSAMER_MEFT"
_FACTORS = {"meft1": (0.125, 1.0), "meft2": (1.0, 0.125), "meft3": (0.125, 0.125)}
"""Lambda and beta; 0.1 where published. A product with a power of two is exact."""
_GROWTH_BITS = {"float64": 20, "float32": 10}
"""By how many bits an error may grow until the streams are kept: with factors of powers of two no
bit that a layer in float32 or bfloat16 computes with has changed until then."""


@dataclass
class MeftConfig(GossamerConfig):
    """MEFT for `peft.get_peft_model` (arXiv 2306.00477): a decoder of Llama's family whose first
    layers are reversible. The fields mean what the settings of method `meft` mean."""

    tuner_type = PEFT_TYPE
    rebuilds_states = True
    """The backward pass computes the layers again, from states that are nearly those of before."""

    variant: str = "meft1"
    width: int = 8
    lam: float | None = None
    beta: float | None = None
    residual: str = "shared"
    reversible_layers: int | None = None
    anchor_every: int | None = None
    stream_dtype: str = "float64"
    activation: str = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        instead = "reversible_layers, how many decoder layers are reversible"
        if not self._follows_layers():
            self.refuse(instead, "target_modules")
        self.refuse(instead, "exclude_modules", "layers_to_transform", "layers_pattern")
        super().__post_init__()
        self._check_choices()
        if self.lam is None:
            self.lam = _FACTORS[self.variant][0]
        if self.beta is None:
            self.beta = _FACTORS[self.variant][1]
        for name in ("lam", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be above 0")
        for name, least in (("width", 1), ("reversible_layers", 1), ("anchor_every", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} = {value}: must be at least {least}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}: must be at least 0 and below 1")

    def _check_choices(self) -> None:
        for name, allowed in (
            ("variant", VARIANTS),
            ("residual", ("shared", "whole")),
            ("stream_dtype", tuple(_GROWTH_BITS)),
            ("activation", ("relu", "gelu", "silu", "tanh")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} '{getattr(self, name)}'; choose {' or '.join(allowed)}")

    def _follows_layers(self) -> bool:
        """Whether `target_modules` is what `set_layers` writes: from a file, or in use before."""
        targets, count = self.target_modules, self.reversible_layers
        return isinstance(targets, str) and bool(count) and targets.endswith(_pattern(count))

    def set_layers(self, path: str, count: int) -> None:
        """Make the first `count` layers of the list of decoder layers at `path` reversible."""
        self.reversible_layers = count
        self.target_modules = path.replace(".", r"\.") + _pattern(count)

    @property
    def factors(self) -> tuple[float, float]:
        """Return lambda and beta."""
        lam, beta = _FACTORS[self.variant]
        return self.lam or lam, self.beta or beta

    @property
    def spacing(self) -> int:
        """After how many layers the streams are kept; 0: never."""
        if self.anchor_every is not None:
            return self.anchor_every
        return anchor_spacing(*self.factors, self.stream_dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the streams, unless the model computes in a wider one."""
        return torch.float64 if self.stream_dtype == "float64" else torch.float32


def anchor_spacing(lam: float, beta: float, stream_dtype: str) -> int:
    """Return the most layers over which errors grow no more than allowed; 0: they do not grow."""
    growth = 1 / (lam * beta)
    if growth <= 1:
        return 0
    return max(1, int(_GROWTH_BITS[stream_dtype] / math.log2(growth) + 1e-9))


def _pattern(count: int | None) -> str:
    return rf"\.({'|'.join(map(str, range(count or 0)))})"
