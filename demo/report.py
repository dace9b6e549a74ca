"""What the demo prints at the end; every figure comes from the run that has just ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.table import Table

from demo.ask import Round
from demo.command import Usage, shown
from demo.curves import losses_by_step
from demo.job import Job
from demo.personas import MODEL, QUESTIONS, Persona

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Tuned:
    """A persona that has been tuned."""

    persona: Persona
    rows: int
    usage: Usage


@dataclass(frozen=True)
class Served:
    """What was measured while the server ran."""

    seconds_to_ready: float
    first: Round
    """All questions, asked of a server that had not yet loaded an adapter."""
    warm: Round
    """The same questions, asked again of the warm server."""
    alone: Round
    """A single question to the base model."""
    usage: Usage


def answers(models: Sequence[str], together: Round) -> Table:
    """A row per model, a column per question."""
    table = Table(show_lines=True)
    table.add_column("model", style="bold")
    for question in QUESTIONS:
        table.add_column(question, ratio=1, overflow="fold")
    for model in models:
        table.add_row(model, *(_cut(together.text(model, question)) for question in QUESTIONS))
    return table


def tuning(tuned: Sequence[Tuned], adapters: Path) -> Table:
    """A column per persona: what was learnt, and what it took."""
    table = Table(title="Tuning", title_justify="left")
    table.add_column("")
    for one in tuned:
        table.add_column(one.persona.name, justify="right")
    facts = [_facts(one, adapters / one.persona.name) for one in tuned]
    for name in facts[0]:
        table.add_row(name, *(fact[name] for fact in facts))
    return table


def _facts(tuned: Tuned, run: Path) -> dict[str, str]:
    persona = tuned.persona
    result = yaml.safe_load((run / "run.yaml").read_text())["result"]
    layers = persona.settings.get("target_modules", "all linear").strip("[]")
    return {
        "method": persona.method,
        "rank": persona.settings["rank"],
        "layers": layers.replace("_proj", ""),
        "weights learnt": f"{result['trainable'] / 1e6:.2f} M",
        "adapter file": f"{(run / 'adapter_model.safetensors').stat().st_size / MIB:.1f} MiB",
        "rows, steps of 4": f"{tuned.rows}, {result['steps']}",
        "loss, first step": f"{losses_by_step(run)[1][0]:.2f}",
        "loss, last tenth": f"{result['train_loss']:.2f}",
        "time in steps": f"{result['seconds']:.0f} s",
        "time of the command": f"{tuned.usage.seconds:.0f} s",
        "peak memory": f"{tuned.usage.peak_bytes / GIB:.1f} GiB",
    }


def job(done: Job) -> Table:
    """What the job learnt, and that the server answers with it."""
    table = Table(show_header=False)
    rows = {
        "model": done.model,
        "rows, steps": f"{done.rows}, {done.steps}",
        "loss, first and last step": f"{done.losses[0]:.2f}, {done.losses[1]:.2f}",
        "from the request to succeeded": f"{done.seconds:.0f} s",
        done.question: _cut(done.answer),
        "from succeeded to that answer": f"{done.seconds_to_answer:.1f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def serving(served: Served) -> Table:
    """Times and memory of the server."""
    table = Table(title="Serving", title_justify="left", show_header=False)
    count = len(served.first.answers)
    rows = {
        "from the command to ready": f"{served.seconds_to_ready:.1f} s",
        f"{count} questions at once, adapters not yet loaded": _pace(served.first),
        f"{count} questions at once, again": _pace(served.warm),
        "one question alone": _pace(served.alone),
        "peak memory of the server": f"{served.usage.peak_bytes / GIB:.1f} GiB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def what_next(output: Path, picture: Path) -> str:
    """Say where everything is, and how to go on by hand."""
    serve = shown(["serve", "--model", MODEL, "--adapters", str(output / "adapters")])
    return "\n".join(
        [
            "",
            f"Loss curves   {picture}",
            f"Adapters      {output / 'adapters'} (each with its curve, metrics and run.yaml)",
            f"Training data {output / 'data'}",
            f"Server's log  {output / 'server.log'}",
            "",
            "Go on by hand:",
            f"  .venv/bin/{serve}",
            "  curl http://127.0.0.1:8000/v1/chat/completions \\",
            "    -H 'Content-Type: application/json' -d '{",
            '    "model": "helpdesk",',
            '    "messages": [{"role": "user", "content": "My mouse is stuck."}]}\'',
        ]
    )


def _pace(asked: Round) -> str:
    rate = asked.tokens / asked.seconds
    return f"{asked.tokens} tokens in {asked.seconds:.1f} s = {rate:.0f} tokens/s"


def _cut(text: str, length: int = 130) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 3].rstrip() + "..."
