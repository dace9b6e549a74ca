"""Plans of sparse compute: make one for a model and data, list and show the published ones.

gossamer sparsity plan --model M --data D --output plan.yaml    find one by the loss, and draw it
gossamer sparsity list                                          plans that come with Gossamer
gossamer sparsity show PLAN                                     a plan, published or of a file

`gossamer tune --sparse-compute PLAN` trains by one.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.basemodel.find import require_known
from gossamer.cli.parts.options import Options, Style, add_assignments
from gossamer.cli.parts.tables import print_table
from gossamer.errors import UsageError
from gossamer.extras import require
from gossamer.files import write_whole
from gossamer.settings import parse_assignments
from gossamer.training.data.source import find_file
from gossamer.training.sweep_settings import SweepSettings

if TYPE_CHECKING:
    from gossamer.training.sparsity_sweep import SweepResult

SWEEP = Options(
    SweepSettings,
    fields=(
        *("model", "data", "target", "max_increase", "search"),
        *("back", "rows", "batch_size", "start", "seed"),
    ),
    metavars={"model": "MODEL", "data": "DATA"},
    style=Style(default=" (default {})"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    plan = actions.add_parser("plan", help="find a plan by the loss on rows of the data")
    SWEEP.add_to(plan)
    plan.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="the plan, as YAML; its picture lies beside it, as PNG",
    )
    plan.add_argument("--overwrite", action="store_true", help="replace a plan that is there")
    add_assignments(plan, "any setting of the sweep or its data, such as attention_shares=[0.25]")
    actions.add_parser("list", help="show the plans that come with Gossamer")
    show = actions.add_parser("show", help="print a plan as YAML")
    show.add_argument("plan", metavar="PLAN", help="name of a published plan, or a file")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return {"plan": _plan, "list": _list, "show": _show}[args.action](args)


def _plan(args: argparse.Namespace) -> int:
    require("sparsity plan", "tune")
    output: Path = args.output
    if output.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--output {output} must end in .yaml")
    if output.exists() and not args.overwrite:
        raise UsageError(f"--output {output} exists; choose another or add --overwrite")
    settings = SweepSettings.parse(
        {**SWEEP.given(args), **parse_assignments(args.assignments)}, where="options"
    )
    require_known(settings.model)
    find_file(settings.data)

    from gossamer.sparsity.plot import draw_plan
    from gossamer.training.sparsity_sweep import find_plan

    result = find_plan(settings, _show_progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = output.with_suffix(".png")
    draw_plan(result.plan, result.layers, picture, sensitivity=result.sensitivity)
    _write(output, result)
    print_table(["", ""], _rows(result))
    print(f"{output}\n{picture}")
    return 0


def _show_progress(done: int, total: int) -> None:
    every = 1 if sys.stderr.isatty() else max(1, total // 10)
    if done % every == 0 or done == total:
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"measured {done} of {total}", end=end, file=sys.stderr, flush=True)


def _write(path: Path, result: "SweepResult") -> None:
    head = (
        f"# Keeps {result.work_kept:.1%} of the operations of a run on rows of "
        f"{result.length:.0f} tokens,\n# {result.context:.0%} of which compute sparsely; the "
        f"untrained model's loss is {result.plan_loss:.3f}, dense {result.dense_loss:.3f}.\n"
    )
    write_whole(path, head + result.plan.as_yaml())


def _rows(result: "SweepResult") -> list[tuple[str, str]]:
    rows = [
        ("operations kept", f"{result.work_kept:.1%}"),
        ("of these, to choose and replace channels", f"{result.choosing_work:.2%}"),
        ("tokens that compute sparsely", f"{result.context:.1%}"),
        ("of these, going back through a product", f"{1 - result.back:.1%}"),
        ("loss, dense", f"{result.dense_loss:.4f}"),
        ("loss, this plan", f"{result.plan_loss:.4f}"),
    ]
    if result.sensitivity is not None:
        rows.append(("loss, shares by the rule", f"{result.seed_loss:.4f}"))
    return rows


def _list(args: argparse.Namespace) -> int:
    from gossamer.sparsity.plan import load_plan, published_plans

    rows = []
    for name in published_plans():
        plan = load_plan(name)
        rows.append([name, str(plan.num_layers), _shown(plan.mlp), _shown(plan.qk)])
    print_table(["name", "layers", "MLP dropped", "attention dropped"], rows)
    return 0


def _shown(shares: dict[str, Any]) -> str:
    return ", ".join(f"{layers}: {share:g}" for layers, share in shares.items()) or "-"


def _show(args: argparse.Namespace) -> int:
    from gossamer.sparsity.plan import load_plan

    print(load_plan(args.plan).as_yaml(), end="")
    return 0
