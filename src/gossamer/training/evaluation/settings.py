"""The settings of what is measured on the held-out rows."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.settings import Settings

PositiveInt = Annotated[int, Field(ge=1)]
ScoreName = Literal["loss", "exact", "last-number", "choice"]


class EvaluationSettings(Settings):
    """The settings of how a model is scored. The loss on the rows is always measured as well."""

    score: Literal["auto", "loss", "exact", "last-number", "choice"] = "auto"
    """What counts: exact (the reply is the answer), last-number (the last number in the reply is
    the answer, within 0.001), choice (the first option that the reply names is the answer), or loss
    alone, without replies. Auto chooses by the rows: last-number if all answers are numbers, choice
    if there are options or few different answers, exact for other answers, loss without answers."""

    eval_rows: PositiveInt | None = None
    """Score at most this many held-out rows, always the same ones, drawn from the whole file."""

    max_new_tokens: PositiveInt = 256
    """Longest reply in tokens; longer ones are cut, and scored as they are."""

    eval_batch_size: PositiveInt = 32
    """Replies that are written at once; more is faster and takes more memory."""
