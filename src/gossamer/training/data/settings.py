"""What a run is trained and evaluated on."""

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from gossamer.settings import Settings
from gossamer.training.data.prints import LeftOut


class DataSettings(Settings):
    """Where the rows come from, how they are read and which of their tokens are learnt."""

    data: str
    """Training rows: a .jsonl, .json, .csv or .parquet file, or a data set of the hub as org/name,
    org/name:split or org/name:config:split (the split is "train" if none is given)."""
    eval_data: str | None = None
    """Rows to evaluate on, given like `data`; they are never trained on."""
    eval_split: int | float = 0
    """Without `eval_data`: how much of `data` to hold out for evaluation, chosen by the seed; a
    share if below 1, else a number of rows."""
    data_format: Literal[
        "auto", "messages", "prompt-completion", "instruction", "text", "preference"
    ] = "auto"
    """How to read a row; auto tells it by the names of the columns."""
    max_length: int = Field(default=1024, ge=2)
    """Longest row in tokens; longer rows are cut at the end, and counted."""
    lazy_data: bool = False
    """Read and encode the rows of `data` when a step needs them, so that they may be more than fit
    in memory: a .jsonl or .parquet file, or a data set of the hub."""
    max_rows: int | None = Field(default=None, ge=1)
    """Read at most this many rows of `data`, from its start."""
    train_on: Literal["completion", "last", "all"] = "completion"
    """Which tokens count in the loss: those of the completion (of a conversation each assistant
    turn without `weight` 0), of the last assistant turn, or all. Rows of plain text always count
    in full."""
    chat_template: bool = True
    """Put prompts and completions into the model's chat template, as the server does with chat
    requests; false joins them as plain text. Rows of plain text are never put into it."""
    skip_bad_rows: bool = False
    """Leave out malformed rows and count them instead of stopping at the first."""
    leave_out: list[LeftOut] = Field(default=[])
    """Kinds of training rows to leave out, and count: duplicates (rows that repeat an earlier one),
    near-duplicates (the same but for case, space and punctuation), and held-out (rows that ask
    what a row of `eval_data` asks, but for case, space and punctuation)."""

    @field_validator("eval_split", mode="before")
    @classmethod
    def _share_or_count(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a share below 1 or a number of rows")
        if not math.isfinite(value) or value < 0 or (value >= 1 and value != int(value)):
            raise ValueError("must be a share below 1 or a whole number of rows, not negative")
        return int(value) if value >= 1 else value

    @field_validator("leave_out", mode="before")
    @classmethod
    def _kinds_in_a_text(cls, value: object) -> object:
        return [kind.strip() for kind in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rows_that_are_held_out(self) -> Self:
        if "held-out" in self.leave_out and self.eval_data is None:
            raise ValueError("leave_out=held-out needs eval_data, the rows not to learn from")
        return self

    @model_validator(mode="after")
    def _one_source_of_eval_rows(self) -> Self:
        if self.eval_data is not None and self.eval_split:
            raise ValueError("give either eval_data or eval_split, not both")
        return self
