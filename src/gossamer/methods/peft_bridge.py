"""Tuners of our own inside PEFT; the one file that touches PEFT's tables.

PEFT's own registration refuses a type that is not in its enum. Its mapping tables take plain
strings, and everything that reads them (`get_peft_model`, `save_pretrained`, `from_pretrained`,
merging) looks types up there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from gossamer.errors import UnsupportedAdapterError


class TunerType(str):
    """A tuner's name where others expect a member of PEFT's enum, of which they ask the `value`."""

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str(self)


@dataclass
class GossamerConfig(PeftConfig):
    """Base of the configurations of our tuners: the fields that PEFT reads of every tuner.

    Subclasses are dataclasses too and set `tuner_type`, the name they are registered under.
    """

    tuner_type: ClassVar[str]

    target_modules: list[str] | str | None = None
    """Layers to adapt, as in PEFT: ends of module paths, or one regular expression."""
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    target_parameters: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TunerType(self.tuner_type)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class GossamerTuner(BaseTuner):
    """Base of our tuners. Subclasses set `prefix` and `tuner_layer_cls`, define
    `_create_and_replace`, and are added with `register_tuner`.

    The layers are mixins of PEFT's `BaseTunerLayer`. What is trained lies in `ParameterDict`s named
    in `adapter_layer_names`, what is only stored (indices) in PEFT's `BufferDict` with
    `persistent=True`, named in `other_param_names`; both are saved and loaded by PEFT as they are.
    """

    tuner_layer_cls = BaseTunerLayer
    target_module_mapping: ClassVar[dict[str, Any]] = {}

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT drops this argument silently, and every row would be answered by the active adapter.
        if kwargs.get("adapter_names") is not None:
            raise UnsupportedAdapterError(
                f"adapter_names: {type(self).__name__} cannot mix adapters in one batch; call "
                "set_adapter and run one adapter at a time, or serve them with gossamer serve"
            )
        yield


def register_tuner(
    peft_type: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner], prefix: str
) -> None:
    """Make PEFT know the tuner: configurations whose `peft_type` is that string are its own.

    `prefix` begins the names of all weights and buffers that the tuner adds to a layer. Raises
    `ValueError` if the type or the prefix is taken, or `model_cls.prefix` is
    another one: a mistake in the source.
    """
    if peft_type != peft_type.upper():
        raise ValueError(f"peft_type '{peft_type}' must be in upper case")
    if model_cls.prefix != prefix:
        raise ValueError(f"{model_cls.__name__}.prefix is '{model_cls.prefix}', not '{prefix}'")
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type)
    if known is model_cls:
        return
    if known is not None:
        raise ValueError(f"peft_type '{peft_type}' is taken by {known.__name__}")
    if prefix in PEFT_TYPE_TO_PREFIX_MAPPING.values():
        raise ValueError(f"prefix '{prefix}' is taken")
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config_cls
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = model_cls
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = prefix
