"""What a cluster of replicas is told. Imports nothing heavy."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from gossamer.settings import Settings


class ClusterSettings(Settings):
    """How many replicas there are, what each may take, and where they find adapters."""

    catalog: str | None = None
    """The database of the names that `cluster publish` has given: sqlite:////shared/catalog.db for
    one machine, postgresql://user@host/name for several; unset: replicas find adapters in the
    folders of --adapters, if there are any."""
    store: str | None = None
    """Where published adapters are kept: a folder, or a URL that fsspec knows, such as s3://bucket;
    unset: the folder of a SQLite catalog."""
    cache: Path = Path("~/.cache/gossamer/published")
    """The folder on each machine in which its replicas keep what they fetched from the store."""
    cache_gib: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """GiB that a machine's cache takes at most; adapters in use may exceed it for a minute."""
    replicas: int = Field(default=2, ge=1)
    """Replicas of the engine, each with its own copy of the base model."""
    max_replicas: int | None = Field(default=None, ge=1)
    """Replicas are added up to this number while each has more than seven tenths of the requests
    that it computes at a time (max_running; where that is unset, of 64), and taken away again down
    to `replicas`; unset: their number stays."""
    upscale_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Seconds for which there must be too many requests before a replica is added."""
    downscale_seconds: float = Field(default=600.0, ge=0, allow_inf_nan=False)
    """Seconds for which there must be too few before one is taken away, which gives a part of the
    adapters another home; it ends its requests first, within drain_seconds."""
    ingresses: int = Field(default=1, ge=1)
    """Processes that speak HTTP and pass requests on; two or more outlive the loss of one."""
    cpus_per_replica: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Processor cores that Ray reserves for each replica, which computes with as many threads
    unless told otherwise."""
    gpus_per_replica: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that Ray reserves for each replica; with tensor_parallel, as many as its processes."""
    ray_address: str | None = None
    """The Ray cluster to use, such as auto for one that `ray start` has started; unset or local:
    one is started on this machine and ends with the command."""

    @field_validator("ray_address", mode="before")
    @classmethod
    def _local_is_one_of_our_own(cls, given: Any) -> Any:
        # Ray starts one for each of them; it must be one that asks for a token.
        is_unset = isinstance(given, str) and given.strip() in ("", "local")
        return None if is_unset else given

    @model_validator(mode="after")
    def _most_are_not_fewer(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"setting 'max_replicas' {self.max_replicas} is below 'replicas' {self.replicas}"
            )
        return self
