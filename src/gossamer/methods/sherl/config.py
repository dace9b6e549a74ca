"""PEFT's configuration of SHERL."""

from dataclasses import dataclass

from gossamer.adapters.kinds.networks.side_network import FORMS, SKIPS
from gossamer.errors import SettingError
from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig

PEFT_TYPE = "GOSSAMER_SHERL"


@dataclass
class SherlConfig(GossamerConfig):
    """SHERL for `peft.get_peft_model`; the fields are the settings of the method `sherl`."""

    tuner_type = PEFT_TYPE

    late_layers: int | None = None
    """In use, how many decoder blocks stay in the backward pass; None: a quarter, rounded up."""
    taps: int = 10
    layers: list[int] | None = None
    """Numbers of the early blocks whose output is read; in use, the last early block ends them."""
    reduction: int = 4
    form: str = "gated"
    skip: str = "whole"

    def __post_init__(self) -> None:
        instead = "late_layers, taps and layers"
        if not self._follows_layers():
            self.refuse(instead, "target_modules")
        self.refuse(instead, "exclude_modules", "layers_to_transform", "layers_pattern")
        super().__post_init__()
        for name, chosen, known in (("form", self.form, FORMS), ("skip", self.skip, SKIPS)):
            if chosen not in known:
                raise ConfigError(f"{name} '{chosen}'; choose one of {', '.join(known)}")
        for name, least in (("late_layers", 0), ("taps", 2), ("reduction", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} = {value}: must be at least {least}")

    def _follows_layers(self) -> bool:
        """Whether `target_modules` is what `set_places` writes: from a file, or in use before."""
        targets, layers = self.target_modules, self.layers
        return isinstance(targets, str) and bool(layers) and targets.endswith(_pattern(layers))

    def set_places(self, path: str, blocks: int) -> None:
        """Choose the states to read in a list of `blocks` decoder blocks at `path`.

        Raises `SettingError` where there is no early block, or `layers` names a late one.
        """
        if self.late_layers is None:
            self.late_layers = -(-blocks // 4)
        early = blocks - self.late_layers
        if early < 1:
            raise SettingError(
                f"late_layers = {self.late_layers} leaves no early block: the model has {blocks}; "
                f"choose 0 to {blocks - 1}"
            )
        chosen = spread(early, self.taps) if self.layers is None else set(self.layers)
        for layer in sorted(chosen):
            if not 0 <= layer < early:
                raise SettingError(
                    f"layers: there is no early layer {layer}; with late_layers = "
                    f"{self.late_layers} they are 0 to {early - 1}"
                )
        self.layers = sorted(chosen | {early - 1})
        self.target_modules = path.replace(".", r"\.") + _pattern(self.layers)

    @property
    def last(self) -> int:
        """Return the number of the last early block, in use."""
        assert self.layers
        return self.layers[-1]


def spread(early: int, taps: int) -> set[int]:
    """Choose blocks among the first `early` so that, with the embeddings, at most `taps` states
    from first to last lie evenly.

    State 0 is the embeddings, state j the output of block j - 1.
    """
    count = min(taps, early + 1)
    return {round(index * early / (count - 1)) - 1 for index in range(1, count)}


def _pattern(layers: list[int] | None) -> str:
    last = layers[-1] if layers else -1
    return rf"\.({'|'.join(str(number) for number in range(last + 1))})"
