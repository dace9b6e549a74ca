"""One fine-tuning job on the running server, as a program written for OpenAI does it."""

import time
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI, OpenAIError

from demo.command import DemoError
from demo.corpus import write_rows
from demo.personas import Persona

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What a finished job left."""

    rows: int
    model: str
    """The name that the server answers under."""
    steps: int
    losses: tuple[float, float]
    """Of the first and the last step."""
    seconds: float
    """From the request to `succeeded`."""
    question: str
    answer: str
    seconds_to_answer: float
    """From `succeeded` to the whole answer of the new model."""


def fine_tune(url: str, persona: Persona, question: str, data: Path, *, batch_size: int) -> Job:
    """Upload rows, create a job, wait until it has succeeded, and ask the new model."""
    rows = write_rows(persona, data)
    try:
        with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            return _fine_tune(client, persona, question, data, rows, batch_size)
    except OpenAIError as error:
        raise DemoError(f"the job of {persona.name} failed: {error}") from error


def _fine_tune(
    client: OpenAI, persona: Persona, question: str, data: Path, rows: int, batch_size: int
) -> Job:
    model = client.models.list().data[0].id
    with data.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    file = client.files.wait_for_processing(file.id, poll_interval=POLL_SECONDS)
    began = time.perf_counter()
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file.id,
        suffix=persona.name,
        seed=0,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": batch_size * persona.steps / rows,
                    "batch_size": batch_size,
                }
            },
        },
        extra_body={"adapter": {"method": persona.method, **persona.settings}},
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(POLL_SECONDS)
        job = client.fine_tuning.jobs.retrieve(job.id)
    succeeded = time.perf_counter()
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise DemoError(f"the job of {persona.name} {job.status}: {job.error}")
    reply = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[{"role": "user", "content": question}],
        max_tokens=48,
        temperature=0,
    )
    answered = time.perf_counter()
    events = client.fine_tuning.jobs.list_events(job.id, limit=100)
    losses = [
        e.data["train_loss"] for e in events if e.type == "metrics" and "train_loss" in e.data
    ]
    return Job(
        rows=rows,
        model=job.fine_tuned_model,
        steps=len(losses),
        # Events come newest first.
        losses=(losses[-1], losses[0]),
        seconds=succeeded - began,
        question=question,
        answer=(reply.choices[0].message.content or "").strip(),
        seconds_to_answer=answered - succeeded,
    )
