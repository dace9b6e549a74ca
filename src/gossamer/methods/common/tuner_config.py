"""What the configurations of our PEFT tuners have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig

from gossamer.errors import SettingError

REQUIRES = "pip install gossamer; import gossamer.tuners"
"""What makes PEFT know our tuners; in every configuration, for those who find one without us."""

_NOTE = """
## Loading

PEFT loads this adapter once it knows Gossamer's tuners:

```sh
pip install gossamer
```

```python
import gossamer.tuners  # makes PEFT know the type of this adapter
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path of this folder")
```
"""


class ConfigError(SettingError, ValueError):
    """An impossible field; a `ValueError` too, as PEFT's own configurations raise."""


class TunerType(str):
    """A tuner's name where others expect a member of PEFT's enum, of which they ask the `value`."""

    @property
    def value(self) -> str:
        """Return the name as a plain string."""
        return str(self)


@dataclass
class GossamerConfig(PeftConfig):
    """Base of the configurations of our tuners: the fields that PEFT reads of every tuner.

    Subclasses are dataclasses too and set `tuner_type`, the name they are registered under. Raises
    `ConfigError` where a field would be ignored.
    """

    tuner_type: ClassVar[str]

    target_modules: list[str] | str | None = None
    """Layers to adapt, as in PEFT: ends of module paths, or one regular expression."""
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    """Numbers of the layers to adapt, with a list as `target_modules`."""
    layers_pattern: list[str] | str | None = None
    target_parameters: list[str] | None = None
    """Nothing: no tuner of ours adapts parameters that belong to no layer."""
    init_weights: bool = True
    """False: the adapter begins with random weights that change something, as tests of PEFT want;
    not stored when true."""
    requires: str = REQUIRES
    """How to make PEFT know this type; always the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TunerType(self.tuner_type)
        # What a file says here is no advice that we would pass on.
        self.requires = REQUIRES
        if self.target_parameters:
            raise ConfigError(
                f"target_parameters = {self.target_parameters}: {type(self).__name__} adapts whole "
                "layers; name them in target_modules"
            )
        self.check_layers()
        if isinstance(self.target_modules, list | tuple):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]

    def check_layers(self) -> None:
        """Raise `ConfigError`, as PEFT's own configurations do, where layers would be ignored."""
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ConfigError(
                    f"`{name}` cannot be used when `target_modules` is a str; give a list of layer "
                    "names, such as ['q_proj', 'v_proj']"
                )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError(
                "When `layers_pattern` is specified, `layers_to_transform` must also be specified."
            )

    def refuse(self, instead: str, *names: str) -> None:
        """Raise `ConfigError` if one of the fields `names`, which mean nothing here, is set."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value != []:
                shown = sorted(value) if isinstance(value, set) else value
                raise ConfigError(
                    f"{name} = {shown!r} means nothing to {type(self).__name__}; use {instead}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are stored."""
        values: dict[str, Any] = super().to_dict()
        if values["init_weights"]:
            del values["init_weights"]
        return values

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the configuration, and into the folder's README what is needed to load it."""
        super().save_pretrained(save_directory, **kwargs)
        card = Path(save_directory) / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if "import gossamer.tuners" not in text:
            card.write_text(text + _NOTE, encoding="utf-8")
