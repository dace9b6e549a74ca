"""The ways to divide requests among replicas that the simulation compares."""

import math
import random
from bisect import bisect
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Protocol

from gossamer.cluster.placement.homes import Homes
from gossamer.cluster.placement.settings import PolicyName

POINTS = 100
"""Points of each replica on the ring."""


class Policy(Protocol):
    """Chooses a replica for each request; one router that sees all of them."""

    def choose(self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]) -> int:
        """Choose the replica of one more request for `adapter`.

        loads: the requests that each replica has now.
        own: those of them that are for this adapter.
        """


class RandomPolicy:
    """Takes any replica."""

    def __init__(self, replicas: int, rng: random.Random) -> None:
        self._replicas, self._rng = replicas, rng

    def choose(self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]) -> int:
        """See `Policy`."""
        return self._rng.randrange(self._replicas)


class RoundRobinPolicy:
    """Takes one replica after the other."""

    def __init__(self, replicas: int) -> None:
        self._replicas, self._last = replicas, -1

    def choose(self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]) -> int:
        """See `Policy`."""
        self._last = (self._last + 1) % self._replicas
        return self._last


class PowerOfTwoPolicy:
    """Takes the less busy one of two replicas drawn at random, as Ray Serve does unless told."""

    def __init__(self, replicas: int, rng: random.Random) -> None:
        self._replicas, self._rng = replicas, rng

    def choose(self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]) -> int:
        """See `Policy`."""
        one, other = self._rng.randrange(self._replicas), self._rng.randrange(self._replicas)
        return one if loads[one] <= loads[other] else other


class RingPolicy:
    """Walks a ring of hashes from the adapter's place to the first replica that has room.

    Consistent hashing with bounded loads (arXiv 1608.01350): a replica has room while one more
    request leaves it at most `bound` times the mean.
    """

    def __init__(self, replicas: int, bound: float = 1.25) -> None:
        points = [
            (_place(f"{replica}/{point}"), replica)
            for replica in range(replicas)
            for point in range(POINTS)
        ]
        self._points = sorted(points)
        self._keys = [place for place, _ in self._points]
        self._replicas, self._bound = replicas, bound

    def choose(self, adapter: str, loads: Mapping[int, int], own: Mapping[int, int]) -> int:
        """See `Policy`."""
        most = math.ceil(self._bound * (sum(loads.values()) + 1) / self._replicas)
        start = bisect(self._keys, _place(adapter))
        for step in range(len(self._points)):
            replica = self._points[(start + step) % len(self._points)][1]
            if loads[replica] < most:
                return replica
        raise AssertionError("all replicas together have room for less than there is")


def make_policy(
    name: PolicyName, replicas: int, rng: random.Random, clock: Callable[[], float]
) -> Policy:
    """Make the policy `name` for replicas 0 to `replicas` - 1."""
    if name == "random":
        return RandomPolicy(replicas, rng)
    if name == "round-robin":
        return RoundRobinPolicy(replicas)
    if name == "power-of-two":
        return PowerOfTwoPolicy(replicas, rng)
    if name == "ring-bounded":
        return RingPolicy(replicas)
    homes = Homes(clock=clock)
    homes.set_members(range(replicas))
    return homes


def _place(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
