"""The base of the settings of all methods, and the types that many of them use."""

from typing import Annotated, ClassVar

from pydantic import Field

from gossamer.settings import Settings

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MethodSettings(Settings):
    """Base of the settings of a method."""

    default_learning_rate: ClassVar[float]
    """The rate of a run whose settings name none; the method's docstring has its source."""
