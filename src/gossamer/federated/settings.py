"""The settings that define a federated run: those of a run, and who learns what in which rounds."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gossamer.federated.gaussian import exact_delta, highest_epsilon
from gossamer.federated.split import parse_split
from gossamer.training.settings import RunSettings, assemble

PositiveInt = Annotated[int, Field(ge=1)]

_NO_PART: dict[str, str] = {
    "objective": "clients learn completions",
    "processes": "clients learn one after the other",
    "lazy_data": "the rows are shared out among clients",
    "packing": "clients are weighed by their rows, which it would put together",
    "sparse_compute": "its plan is for the steps of one run",
    "density_loss": "it is a part of one run's loss",
    "early_stop": "all rounds are taken",
    "load_best_at_end": "the result is that of the last round",
    "samples": "no client has a screen",
    "report_to": "a round is no step",
}
"""Settings of a run that rounds do not have, and why."""


class FederatedSettings(RunSettings):
    """A federated run, complete. It is repeated exactly by the same settings and files.

    What a run of one machine counts in steps is counted in rounds here: scheduler (constant by
    default), warmup (none), eval_every (1) and save_every (1); epochs (1) and max_steps are those
    of a client in each round.
    """

    output: str
    """Folder of the run: the adapter, its record, the figures of all rounds, and checkpoints."""

    clients: PositiveInt | None = None
    """Clients that learn; unset: 4, or as many as the column of `split` has values."""

    rounds: PositiveInt = 10
    """Rounds, in each of which clients learn and the server makes one adapter of what they did."""

    clients_per_round: PositiveInt | None = None
    """Clients that take part in a round, drawn by the seed; unset: all."""

    split: str = "iid"
    """How the rows are shared out: iid (evenly, at random), dirichlet:ALPHA (each class of
    `split_by` in proportions drawn with that concentration: 0.1 gives a client few classes, 100
    nearly all), or column:NAME (each value of the column is a client)."""

    split_by: str | None = None
    """The column whose values are the classes of a Dirichlet split."""

    min_client_rows: PositiveInt = 8
    """Rows that each client has at least; a Dirichlet draw is repeated until it is so."""

    aggregation: Literal["fedit", "ffa", "rolora", "flora", "fedex", "flex", "zero-pad"] = "fedit"
    """How one adapter is made of many: fedit (mean of each factor), ffa (A frozen, mean of B; half
    the bytes), rolora (B and A in turns), flora (products stacked into the base), fedex (fedit,
    and what it misses into the base), flex (SVD of the mean of the products), zero-pad (fedit with
    ranks that differ)."""

    ranks: list[PositiveInt] | None = Field(default=None)
    """Ranks of the clients, in turn, none above the method's rank; unset: the method's rank. With
    flora, flex and zero-pad."""

    export_rank: PositiveInt | None = None
    """Rank of the adapter that flora and fedex leave, cut by an SVD whose error is told; unset: as
    many as it takes to be exact."""

    privacy: Literal["none", "server", "client", "local"] = "none"
    """Differential privacy, over Flower only: none; server (the server clips what each client has
    changed, and adds noise to the mean), client (clients clip, the server adds the noise), local
    (clients clip and add noise themselves). Every client then counts the same."""

    privacy_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """The longest change of one client, as the norm of all its tensors; longer ones are scaled."""

    privacy_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """With privacy server and client: the deviation of the noise as a multiple of the longest
    change; 1 and more is recommended."""

    privacy_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    """With privacy local: the epsilon of one round of one client. The noise is that of a formula
    which holds up to 1; above, what it still holds for is accepted (8.4 with a delta of 1e-5)."""

    privacy_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """With privacy local: the delta of one round of one client."""

    round_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 21600.0
    """Over Flower: the longest that the server waits for the replies of a round; a client that has
    not answered by then is left out of it."""

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Passes of a client over its rows in each round; not used where max_steps is given."""

    max_steps: PositiveInt | None = None
    """Optimizer steps of a client in each round; unset: as many as `epochs` needs."""

    scheduler: Literal["linear", "cosine", "constant"] = "constant"
    """Course of the learning rate over the rounds after the warm-up; within a round it stays."""

    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Warm-up of the learning rate from zero: a share of all rounds if below 1, else rounds."""

    eval_every: PositiveInt | None = 1
    """Rounds between evaluations on held-out rows; unset: only at the start and at the end."""

    save_every: PositiveInt = 1
    """Rounds between checkpoints; there is one after the last round in any case."""

    @model_validator(mode="after")
    def _fits_rounds(self) -> Self:
        for name, why in _NO_PART.items():
            field = type(self).model_fields[name]
            if getattr(self, name) != field.default:
                raise ValueError(f"{name} cannot be had in federated rounds: {why}; leave it out")
        split = parse_split(self.split)
        if split.kind == "dirichlet" and self.split_by is None:
            raise ValueError(
                f"split {self.split} needs split_by, the column whose values are the classes"
            )
        if split.kind != "dirichlet" and self.split_by is not None:
            raise ValueError(f"split_by is for split dirichlet:ALPHA, not for split {self.split}")
        if self.privacy != "none" and self.aggregation not in ("fedit", "ffa"):
            raise ValueError(
                f"privacy {self.privacy} adds noise to a mean; take aggregation fedit or ffa"
            )
        if self.privacy == "local":
            epsilon, delta = self.privacy_epsilon, self.privacy_delta
            if (exact := exact_delta(epsilon, delta)) > delta:
                highest = highest_epsilon(epsilon, delta)
                raise ValueError(
                    f"privacy_epsilon={epsilon:g}: the noise for it has a delta of {exact:.3g}, "
                    f"above privacy_delta={delta:g}; take at most {highest:.3g}"
                )
        if self.export_rank is not None and self.aggregation not in ("flora", "fedex"):
            raise ValueError(
                f"export_rank is for aggregation flora and fedex, whose rank grows; "
                f"{self.aggregation} leaves the method's rank"
            )
        if self.ranks is not None and self.aggregation not in ("flora", "flex", "zero-pad"):
            raise ValueError(
                f"ranks cannot differ with aggregation {self.aggregation}; take flora, flex or "
                "zero-pad"
            )
        return self


def assemble_federated(
    config: Mapping[str, Any], options: Mapping[str, Any], assignments: Mapping[str, Any]
) -> FederatedSettings:
    """Read settings from a config file, overridden by options, overridden by assignments, as
    `gossamer.training.settings.assemble` does. Raises `SettingError` or `UnknownNameError`."""
    own = set(FederatedSettings.model_fields) - set(RunSettings.model_fields)

    def only(values: Mapping[str, Any], mine: bool) -> dict[str, Any]:
        return {k: v for k, v in values.items() if (k in own) == mine and v is not None}

    given = [config, options, assignments]
    run = assemble(*(only(values, False) for values in given))
    explicit = {key for values in given for key in values}
    values = {k: v for k, v in run.model_dump(mode="json").items() if k in explicit}
    values["method_settings"] = run.method_settings
    for more in given:
        values |= only(more, True)
    return FederatedSettings.parse(values, where="run")
