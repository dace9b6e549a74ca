"""Plans the rounds of a federated run: stages, learning rates, what learns, and who takes part."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gossamer.federated.aggregation.base import Aggregation, Parts
from gossamer.training.plan import StagePlan, rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round, as the server plans it."""

    number: int
    """From 1."""
    stage: int
    """Index of the method's stage."""
    stage_name: str
    begins_stage: bool
    """Whether the stage before ended with the round before."""
    aggregation: str
    """By what the uploads of this round become one."""
    parts: Parts | None
    """Which of the factors A and B learn; None: all that the method makes learn."""
    learning_rate: float
    """The rate of every step of the round."""


def plan_rounds(
    stages: Sequence[StagePlan], aggregation: Aggregation, *, scheduler: str
) -> list[Round]:
    """Plan all rounds; the steps of `stages` are rounds.

    Factors exist in the last stage only: before it, whatever learns is averaged.
    """
    rounds = []
    for stage in stages:
        last = stage is stages[-1]
        for turn in range(stage.steps):
            factor = rate_factor(turn, plan=stage, scheduler=scheduler)
            rounds.append(
                Round(
                    number=stage.start + turn + 1,
                    stage=stage.index,
                    stage_name=stage.name,
                    begins_stage=turn == 0 and stage.index > 0,
                    aggregation=aggregation.name if last else "fedit",
                    parts=aggregation.parts(turn) if last else None,
                    learning_rate=stage.learning_rate * factor,
                )
            )
    return rounds


def choose_clients(clients: int, wanted: int | None, number: int, seed: int) -> list[int]:
    """Choose who takes part in a round: `wanted` of the clients, or all of them."""
    if wanted is None or wanted >= clients:
        return list(range(clients))
    return sorted(random.Random(f"{seed} {number}").sample(range(clients), wanted))


def round_seed(seed: int, number: int, client: int) -> int:
    """Return the seed of what one client draws in one round: the order of its rows, and dropout.

    It is that of the run for the first client in the first round, which so repeats what a run of
    one machine does.
    """
    if number == 1 and client == 0:
        return seed
    digest = hashlib.sha256(f"{seed} {number} {client}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
