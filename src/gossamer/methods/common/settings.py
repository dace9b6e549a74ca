"""The base of the settings of all methods, and the types that many of them use."""

from typing import Annotated, ClassVar

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.settings import Settings

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MethodSettings(Settings):
    """Base of the settings of a method."""

    default_learning_rate: ClassVar[DefaultRate]
    """The rate of a run whose settings name none, with its source."""
