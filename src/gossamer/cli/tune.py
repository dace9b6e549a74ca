"""Fine-tune a base model with a method, on your data.

The result is a run folder: the adapter, which PEFT and `gossamer serve` load, its record
`run.yaml`, the metrics of each step, a curve, and checkpoints to resume from.
"""

import argparse
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from gossamer.cli.parts import known_tasks
from gossamer.cli.parts.options import Options, Style, add_assignments
from gossamer.errors import SettingError
from gossamer.evaluation.settings import EvalSettings
from gossamer.extras import require
from gossamer.methods import default_rate, names, settings_type, summary
from gossamer.settings import Settings, parse_assignments
from gossamer.training.arguments import check_names, collect
from gossamer.training.settings import RunSettings

RUN = Options(
    RunSettings,
    fields=(
        *("model", "data", "method", "objective", "output", "start_from"),
        *("max_steps", "early_stop", "processes", "shard_base"),
        *("seed", "dtype", "sparse_compute", "report_to"),
    ),
    metavars={
        "model": "MODEL",
        "data": "DATA",
        "method": "METHOD",
        "output": "OUTPUT",
        "dtype": "DTYPE",
        "sparse_compute": "SPARSE_COMPUTE",
    },
    word="model",
    # A file given with --config may hold what is required.
    style=Style(default=" (default {})", required=False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes; the words come from the settings themselves."""
    RUN.add_to(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings in YAML, such as the run.yaml of another run; options override it",
    )
    known_tasks.add_arguments(parser)
    add_assignments(
        parser, "any setting of the run, its data or its method; may be given several times"
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave rows out that cannot be read, and count them, instead of stopping",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output from its last checkpoint, to the same losses",
    )
    mode.add_argument(
        "--overwrite", action="store_true", help="replace the run that is in --output"
    )
    mode.add_argument(
        "--dry-run",
        action="store_true",
        help="print rows, tokens, steps, parameters, memory and an example; write nothing",
    )
    parser.add_argument(
        "--help-method", metavar="NAME", help="list all settings of a run with a method, and stop"
    )
    width = max(map(len, names()))
    parser.epilog = "\n".join(
        ["methods:", *(f"  {name:<{width}}  {summary(name)}" for name in names())]
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.help_method is not None:
        print(method_help(args.help_method))
        return 0
    require("tune", "tune")
    settings, recorded = _collected(args)
    # Before torch, TRL and PEFT are loaded, which takes seconds.
    overwrite = args.overwrite or args.dry_run
    check_names(settings, resume=args.resume, overwrite=overwrite)
    if args.dry_run:
        from gossamer.training.dry_run import dry_run

        print("\n".join(dry_run(settings).lines()))
        return 0
    scored = _scored(args, settings)
    code = _tune(settings, recorded, resume=args.resume, overwrite=args.overwrite)
    return known_tasks.score(scored) if scored is not None and code == 0 else code


def _scored(args: argparse.Namespace, settings: RunSettings) -> EvalSettings | None:
    """How the result is scored on known tasks, if it is to be."""
    output = Path(settings.output)
    model, adapters = (settings.model, [output])
    # Finds the method, which loads torch.
    if args.eval_tasks and settings.build_method().kind == "model":
        # The result is a model of its own; the base model is another.
        model, adapters = str(output), []
    return known_tasks.planned(args, "tune", model, adapters, output)


def _collected(args: argparse.Namespace) -> tuple[RunSettings, dict[str, Any]]:
    options = {**RUN.given(args), "skip_bad_rows": args.skip_bad_rows or None}
    assignments = parse_assignments(args.assignments)
    try:
        return collect(args.config, options, assignments, resume=args.resume)
    except SettingError as error:
        raise SettingError(RUN.in_options(str(error).removeprefix("run: "))) from None


def method_help(name: str) -> str:
    """List all settings of a run with the method `name`, with their defaults and sentences."""
    fields, rate = settings_type(name), default_rate(name)
    run_fields = [field for field in RunSettings.model_fields if field != "method_settings"]
    return "\n".join(
        [
            f"{name}: {summary(name)}",
            f"default learning rate {rate}",
            f"  ({rate.source})",
            "",
            f"settings of {name}:",
            *_describe(fields, list(fields.model_fields)),
            "",
            "settings of every run and its data:",
            *_describe(RunSettings, run_fields),
        ]
    )


def _tune(settings: RunSettings, recorded: dict[str, Any], *, resume: bool, overwrite: bool) -> int:
    from gossamer.training.loop.callback import RunInterrupted
    from gossamer.training.outputs.progress import make_progress, print_result
    from gossamer.training.run import run as carry_out

    screen = make_progress(log_every=settings.log_every)
    try:
        result = carry_out(
            settings, resume=resume, overwrite=overwrite, listener=screen, repeats=recorded
        )
    except RunInterrupted as stopped:
        screen.closed()
        print(stopped)
        return 130
    finally:
        screen.closed()
    print_result(result)
    return 0


def _describe(settings: type[Settings], fields: list[str]) -> list[str]:
    lines = []
    for name in fields:
        field = settings.model_fields[name]
        default = "required" if field.is_required() else f"default {_shown(field.default)}"
        choices = _choices(field.annotation)
        words = f"; one of {', '.join(choices)}" if choices else ""
        text = " ".join((field.description or "").split())
        lines += [f"  {name}  ({default}{words})", f"      {text}"]
    return lines


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) in (Union, UnionType):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    if get_origin(annotation) is not Literal:
        return []
    return [str(choice) for choice in get_args(annotation)]


def _shown(value: Any) -> str:
    return (
        "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
