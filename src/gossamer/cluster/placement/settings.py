"""What the simulation of replicas is told. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.settings import Settings

PolicyName = Literal["random", "round-robin", "power-of-two", "ring-bounded", "homes"]


class SimulationSettings(Settings):
    """Traffic for many adapters, the replicas that answer it, and how requests are divided."""

    replicas: int = Field(default=4, ge=1, le=4096)
    """Replicas of the base model."""
    adapters: int = Field(default=100_000, ge=1, le=10_000_000)
    """Adapters that requests are for."""
    zipf: float = Field(default=1.0, ge=0, le=4, allow_inf_nan=False)
    """How unequal adapters are: the n-th most wanted one is asked for in proportion to
    1 / n^zipf; 0: all alike."""
    load: float = Field(default=0.7, gt=0, le=2, allow_inf_nan=False)
    """Requests that come, as a part of what all replicas can answer with all places in use."""
    requests: int = Field(default=12_000, ge=10)
    """Requests per replica; the first half fills the caches, the second half is counted."""
    slots: int = Field(default=32, ge=1)
    """Requests that a replica computes at a time."""
    answer_seconds: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Mean time of an answer on a replica with one adapter in the batch (exponential)."""
    slowdown: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    """How much longer answers take when every request of a full batch has an adapter of its own."""
    pool: int = Field(default=240, ge=1)
    """Adapters that the pool of a replica holds beside its running requests."""
    host: int = Field(default=3000, ge=0)
    """Adapters in the host memory of a replica; those in the pool are among them."""
    host_seconds: float = Field(default=0.005, ge=0, allow_inf_nan=False)
    """To copy an adapter from host memory into the pool."""
    cold_seconds: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """To load an adapter that is not in host memory, from the disk or the store."""
    loaders: int = Field(default=1, ge=1)
    """Adapters that a replica loads at a time."""
    rival: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """A tenant that always has as many requests as all replicas have places, for this many adapters
    of its own (repeatable); the other adapters then belong to a tenant each, and each replica
    starts the request of the tenant that it has served least."""
    read_ahead: int = Field(default=8, ge=1)
    """Waiting requests of a replica whose adapters are loaded already."""
    policy: tuple[PolicyName, ...] = ()
    """Ways to divide requests that are compared (repeatable); unset: all."""
    seed: int = 0
    """Seed of the traffic: equal ones give equal figures."""
