"""Plans how many steps a run takes and which rows each step sees: pure arithmetic and a seed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from gossamer.methods import Stage
from gossamer.training.settings import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The course of a run."""

    num_rows: int
    """The number of training rows."""
    steps: int
    """The number of optimizer steps."""
    rows_per_step: int
    """The rows of a step; the last step of a run measured in epochs may have fewer, unless
    several processes train."""
    num_samples: int
    """The rows seen in all, repetitions included."""
    warmup_steps: int

    @property
    def epochs(self) -> float:
        return self.num_samples / self.num_rows


def make_plan(settings: RunSettings, num_rows: int) -> RunPlan:
    """Make the plan for `num_rows` training rows (at least one)."""
    rows_per_step = settings.batch_size * settings.gradient_accumulation * settings.processes
    if settings.max_steps is not None:
        steps = settings.max_steps
        num_samples = steps * rows_per_step
    else:
        num_samples = max(1, round(settings.epochs * num_rows))
        steps = math.ceil(num_samples / rows_per_step)
        if settings.processes > 1:
            # So that each process has its share of the last step too.
            num_samples = steps * rows_per_step
    return RunPlan(
        num_rows=num_rows,
        steps=steps,
        rows_per_step=rows_per_step,
        num_samples=num_samples,
        warmup_steps=_warmup_steps(steps, settings.warmup),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The course of one stage; a run of a method without stages has one."""

    index: int
    name: str
    start: int
    """The steps of the run before the stage's first."""
    steps: int
    learning_rate: float
    """The peak learning rate of the stage."""
    warmup_steps: int

    @property
    def end(self) -> int:
        """The steps of the run up to the stage's last."""
        return self.start + self.steps


def plan_stages(
    stages: Sequence[Stage], settings: RunSettings, *, total: int
) -> tuple[StagePlan, ...]:
    """Plan each of a method's `stages`; `settings` have their learning rate chosen.

    Raises `ValueError` if they do not make up the run's `total` steps: a mistake in the method.
    """
    names = [stage.name for stage in stages]
    steps = [stage.steps for stage in stages]
    if len(set(names)) < len(names) or min(steps, default=0) < 1 or sum(steps) != total:
        raise ValueError(f"stages {names} of {steps} steps do not make up a run of {total} steps")
    return tuple(
        StagePlan(
            index=index,
            name=stage.name,
            start=sum(steps[:index]),
            steps=stage.steps,
            learning_rate=stage.learning_rate
            or stage.rate_factor * (settings.learning_rate or 0.0),
            warmup_steps=_warmup_steps(stage.steps, settings.warmup),
        )
        for index, stage in enumerate(stages)
    )


def _warmup_steps(steps: int, warmup: float) -> int:
    return math.ceil(steps * warmup) if warmup < 1 else int(warmup)


class RowOrder(Sampler[int]):
    """The row numbers of a whole run: one seeded permutation after another, cut to length.

    Depends on nothing but its arguments, so a resumed run sees the same rows; and a longer run
    begins with the rows of a shorter one.
    """

    def __init__(self, plan: RunPlan, seed: int) -> None:
        self._plan = plan
        self._seed = seed

    def __len__(self) -> int:
        return self._plan.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        left = self._plan.num_samples
        while left > 0:
            order = torch.randperm(self._plan.num_rows, generator=generator)[:left]
            left -= len(order)
            # Not all at once: there may be more rows than Python's numbers fit in memory.
            for start in range(0, len(order), 65536):
                yield from order[start : start + 65536].tolist()


def rate_factor(step: int, *, plan: RunPlan | StagePlan, scheduler: str) -> float:
    """The factor of the peak learning rate in the step that follows `step` of the plan.

    Never zero: neither the first nor the last step is wasted.
    """
    warmup = plan.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if scheduler == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, plan.steps - warmup))
    return 1.0 - done if scheduler == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
