"""What is told of jobs by their kind."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """How jobs of one kind are spoken of, and what can be asked of them."""

    created: str
    started: str
    has_steps: bool
    """Whether it goes on from a step where it stopped; what does not cannot be paused."""


JOB_KINDS = {
    "tune": JobKind(
        created="Created fine-tuning job", started="Fine-tuning job started", has_steps=True
    ),
    "compare": JobKind(created="Created comparison", started="Comparison started", has_steps=True),
    "verify": JobKind(
        created="Created verification", started="Verification started", has_steps=False
    ),
    "export": JobKind(created="Created export", started="Export started", has_steps=False),
}
"""All kinds by the name that the table has."""


def step_words(kind: str, step: int) -> str:
    """Say where a job of that kind stands; nothing of one that has no steps."""
    if not JOB_KINDS[kind].has_steps:
        return ""
    return f" at step {step}" if step else " before the first checkpoint"
