"""Tune one adapter on the rows of many clients, none of which shows its rows to the others.

gossamer federate simulate MODEL --data D --clients 4 --rounds 10 --output runs/fed
gossamer federate report runs/fed runs/other --picture loss.svg
gossamer federate app DIR --model M --eval-data E --clients 4 --output runs/fed

`simulate` has all clients and the server in this process, without a network. The result is a run
folder as that of `gossamer tune`: an adapter that PEFT and `gossamer serve` load, and the figures
of each round. `app` writes the same for machines of their own, which Flower brings together. Exit
code 1: a client failed in a round, which went on without it.
"""

import argparse
import os
from pathlib import Path

from gossamer.cli.parts.options import Options, Style, add_assignments
from gossamer.errors import SettingError
from gossamer.extras import require
from gossamer.federated.settings import FederatedSettings

FEDERATED = Options(
    FederatedSettings,
    fields=(
        *("model", "data", "eval_data", "method", "output", "clients", "rounds"),
        *("clients_per_round", "split", "split_by", "aggregation", "ranks", "export_rank"),
        *("epochs", "max_steps", "seed", "dtype"),
    ),
    metavars={
        "eval_data": "DATA",
        "model": "MODEL",
        "data": "DATA",
        "method": "METHOD",
        "output": "OUTPUT",
        "aggregation": "AGGREGATION",
        "dtype": "DTYPE",
    },
    word="model",
    # A file given with --config may hold what is required.
    style=Style(default=" (default {})", required=False, lists="words"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    simulate = actions.add_parser("simulate", help="all clients and the server in this process")
    _add_settings(simulate)
    over = simulate.add_mutually_exclusive_group()
    over.add_argument(
        "--flower",
        action="store_true",
        help="over Flower's messages, which privacy needs; in this process, to the same numbers",
    )
    over.add_argument(
        "--flower-simulation",
        type=_count,
        metavar="N",
        help="over Flower's messages on its simulation engine, to the same numbers: N clients at a "
        "time learn in processes of Ray, each of which loads the model",
    )
    mode = simulate.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output after its last round, to the same figures",
    )
    mode.add_argument(
        "--overwrite", action="store_true", help="replace the run that is in --output"
    )
    app = actions.add_parser("app", help="write an app for Flower's superlink and supernodes")
    app.add_argument("folder", metavar="DIR", type=Path, help="the new folder of the app")
    _add_settings(app)
    report = actions.add_parser("report", help="compare finished or running runs, round by round")
    report.add_argument("runs", metavar="DIR", nargs="+", type=Path)
    report.add_argument(
        "--rounds", action="store_true", help="print every round, not the last one of each run"
    )
    report.add_argument(
        "--picture",
        metavar="FILE",
        type=Path,
        help="draw the losses by round and by bytes, as PNG or SVG",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    FEDERATED.add_to(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings in YAML, such as the run.yaml of another run; options override it",
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave out malformed rows and count them instead of stopping at the first",
    )
    add_assignments(parser, "any setting of the run, its data, its rounds or its method")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return {"simulate": _simulate, "app": _app, "report": _report}[args.action](args)


def _settings(args: argparse.Namespace, *, resume: bool = False) -> FederatedSettings:
    from gossamer.federated.settings import assemble_federated
    from gossamer.settings import parse_assignments
    from gossamer.training.arguments import check_resumable
    from gossamer.training.outputs.run_record import FEDERATE, FILE, read_config

    options = {**FEDERATED.given(args), "skip_bad_rows": args.skip_bad_rows or None}
    config = args.config
    if args.action == "app":
        # Clients have rows of their own.
        if "eval_data" not in options and config is None:
            raise SettingError(
                "--eval-data is required: the server judges each round by rows of its own"
            )
        options.setdefault("data", options.get("eval_data"))
    if config is None and resume:
        if options.get("output") is None:
            raise SettingError("--resume needs --output, the folder of the run to go on with")
        check_resumable(Path(options["output"]), command=FEDERATE)
        config = Path(options["output"]) / FILE
    values, _ = read_config(config) if config is not None else ({}, {})
    try:
        return assemble_federated(values, options, parse_assignments(args.assignments))
    except SettingError as error:
        raise SettingError(FEDERATED.in_options(str(error).removeprefix("run: "))) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of processes; give 1 or more")
    return int(text)


def _simulate(args: argparse.Namespace) -> int:
    require("federate simulate", "tune")
    over = ""
    if args.flower:
        over = " --flower"
        require("federate simulate --flower", "federated")
    elif args.flower_simulation is not None:
        over = f" --flower-simulation {args.flower_simulation}"
        require("federate simulate --flower-simulation", "federated-simulation")
    settings = _settings(args, resume=args.resume)
    from gossamer.federated.check import check_names

    # Before torch, TRL and PEFT are loaded, which takes seconds.
    check_names(settings, resume=args.resume, overwrite=args.overwrite)

    def tell(line: str) -> None:
        print(line, flush=True)

    try:
        if over:
            from gossamer.federated.flower.simulate import simulate_over_flower

            result = simulate_over_flower(
                settings,
                at_once=args.flower_simulation,
                resume=args.resume,
                overwrite=args.overwrite,
                tell=tell,
            )
        else:
            from gossamer.federated.run import simulate

            result = simulate(settings, resume=args.resume, overwrite=args.overwrite, tell=tell)
    except KeyboardInterrupt:
        print(
            "interrupted; go on with: gossamer federate simulate --output "
            f"{settings.output} --resume{over}",
            flush=True,
        )
        if args.flower_simulation is not None:
            # Threads of Flower's may wait for ever for processes of Ray that are gone.
            os._exit(130)
        return 130
    from gossamer.cli.parts.tables import format_bytes

    held_out = ""
    if result.eval_loss is not None:
        before = result.eval_loss_before
        came_from = "" if before is None else f" (from {before:.4f})"
        held_out = f"held-out loss {result.eval_loss:.4f}{came_from}, "
    print(
        f"{held_out}{format_bytes(result.bytes_up)} up, {format_bytes(result.bytes_down)} down, "
        f"in {result.output}"
    )
    if result.export_rank is not None:
        error = "exact" if result.export_error is None else f"error {result.export_error:.3g}"
        print(f"the adapter has rank {result.export_rank}, {error}")
    return 1 if result.failures else 0


def _app(args: argparse.Namespace) -> int:
    from gossamer.federated.check import check_method
    from gossamer.federated.flower.write_app import write_app

    settings = _settings(args)
    check_method(settings)
    for name in write_app(settings, args.folder):
        print(args.folder / name)
    print(f"{args.folder / 'README.md'} says how to start it")
    return 0


def _report(args: argparse.Namespace) -> int:
    from gossamer.cli.parts.tables import print_table
    from gossamer.federated.outputs.report import COLUMNS, report_rows, run_records

    runs = run_records(args.runs)
    print_table(COLUMNS, report_rows(runs, every_round=args.rounds))
    if args.picture is not None:
        require("federate report --picture", "plot")
        from gossamer.federated.outputs.picture import draw_rounds

        if args.picture.suffix not in (".png", ".svg"):
            raise SettingError(f"--picture {args.picture}: give a name that ends in .png or .svg")
        draw_rounds(runs, args.picture)
    return 0
