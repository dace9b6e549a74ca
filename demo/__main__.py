"""`python -m demo`: the whole tour. See the package's docstring."""

import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from demo import report
from demo.ask import Round, ask_together
from demo.command import DemoError, Usage, run, shown
from demo.corpus import write_rows
from demo.curves import draw_curves
from demo.job import fine_tune
from demo.personas import (
    JOB,
    JOB_QUESTION,
    MAX_TOKENS,
    MODEL,
    PERSONAS,
    QUESTIONS,
    RUN,
    Persona,
)
from demo.server import Server

OUTPUT = Path("demo-run")
# A file or a pipe has no width of its own; tables need some.
console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the demo and return 0 if every step went well."""
    start = time.perf_counter()
    try:
        _tour(OUTPUT)
    except DemoError as error:
        console.print(f"demo: error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"\nAll of this took {time.perf_counter() - start:.0f} s after the set-up.")
    return 0


def _tour(output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    adapters = output / "adapters"
    adapters.mkdir(parents=True)
    _title("1. Fetch the base model")
    _say_and_run(["model", "pull", MODEL])
    _title("2. Tune four personas")
    tuned = [_tune(persona, output) for persona in PERSONAS]
    _title("3. Serve the base model and all personas from one process")
    names = [MODEL, *(persona.name for persona in PERSONAS)]
    arguments = ["--model", MODEL, "--adapters", str(adapters)]
    arguments += ["--jobs", "--data-dir", str(output / "jobs")]
    server = Server(arguments, output / "server.log")
    console.print(f"$ {shown(server.arguments)}", style="bold", markup=False)
    try:
        server.start()
        console.print(f"ready after {server.seconds_to_ready:.1f} s at {server.url}")
        first, warm, alone = _ask(server.url, names)
        _title("4. The same questions, asked of all at once")
        console.print(report.answers(names, first))
        _title("5. One more, as a fine-tuning job, by OpenAI's client")
        rows = output / "data" / f"{JOB.name}.jsonl"
        batch_size = int(RUN["batch_size"])
        job = fine_tune(server.url, JOB, JOB_QUESTION, rows, batch_size=batch_size)
        console.print(report.job(job))
        usage = server.stop()
    finally:
        server.kill()
    console.print("stopped by SIGTERM with exit code 0")
    served = report.Served(server.seconds_to_ready, first, warm, alone, usage)
    _title("6. Times and memory of this run")
    console.print(report.tuning(tuned, adapters))
    console.print(report.serving(served))
    picture = draw_curves({p.name: adapters / p.name for p in PERSONAS}, output / "curves.png")
    console.print(report.what_next(output, picture), markup=False, highlight=False, soft_wrap=True)


def _ask(url: str, names: list[str]) -> tuple[Round, Round, Round]:
    """Ask all questions at once on the cold server, then again, then one question alone."""
    first = ask_together(url, names, QUESTIONS, MAX_TOKENS)
    warm = ask_together(url, names, QUESTIONS, MAX_TOKENS)
    return first, warm, ask_together(url, [MODEL], QUESTIONS[:1], MAX_TOKENS)


def _tune(persona: Persona, output: Path) -> report.Tuned:
    data = output / "data" / f"{persona.name}.jsonl"
    rows = write_rows(persona, data)
    console.print(f"\n[bold]{persona.name}[/]: {rows} rows about {', '.join(persona.topics)}")
    arguments = ["tune", "--model", MODEL, "--data", str(data), "--method", persona.method]
    arguments += ["--output", str(output / "adapters" / persona.name)]
    arguments += ["--max-steps", str(persona.steps)]
    for key, value in {**RUN, **persona.settings}.items():
        arguments += ["--set", f"{key}={value}"]
    return report.Tuned(persona, rows, _say_and_run(arguments))


def _say_and_run(arguments: list[str]) -> Usage:
    console.print(f"$ {shown(arguments)}", style="bold", markup=False, soft_wrap=True)
    return run(arguments)


def _title(text: str) -> None:
    console.print()
    console.rule(text, align="left")


if __name__ == "__main__":
    sys.exit(main())
