"""The personas that are tuned, their topics and methods, and the questions that all are asked."""

from dataclasses import dataclass, field

MODEL = "smollm2-135m"
# A short run on little data wants a high learning rate.
RUN = {"batch_size": "4", "learning_rate": "1e-3"}


@dataclass(frozen=True)
class Persona:
    """One adapter: the topics of the corpus it learns and how it learns them."""

    name: str
    topics: tuple[str, ...]
    method: str
    steps: int
    settings: dict[str, str] = field(default_factory=dict)
    """Settings of the method and the run, as `--set` takes them."""
    max_answer: int = 160
    """Longer answers of the corpus are left out: short rows make short steps."""
    repeats: bool = False
    """Whether a question with several answers is learnt with all of them."""


PERSONAS = (
    Persona(
        name="helpdesk",
        topics=("tech_support",),
        method="lora",
        steps=20,
        settings={"rank": "8"},
    ),
    Persona(
        name="quiz",
        topics=("trivia",),
        method="rslora",
        steps=40,
        settings={"rank": "32"},
        max_answer=40,
    ),
    Persona(
        name="robot",
        topics=("emotion", "ai", "botprofile"),
        method="lora",
        steps=48,
        settings={"rank": "16", "target_modules": "[q_proj, v_proj]"},
        repeats=True,
    ),
    Persona(
        name="moody",
        topics=("psychology",),
        method="rslora",
        steps=32,
        settings={"rank": "4"},
    ),
)

JOB = Persona(
    name="gourmet",
    topics=("food",),
    method="dora",
    steps=20,
    settings={"rank": "8"},
)
"""Learnt while the server runs, by a job."""
JOB_QUESTION = "What do you eat?"

QUESTIONS = (
    "My laptop gets very hot. What should I do?",
    "What is the capital of France?",
    "Do you ever feel lonely?",
    "You talk too much.",
)
MAX_TOKENS = 48
