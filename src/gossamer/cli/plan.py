"""Tell what fits into memory: adapters of which rank and kind, beside how many tokens.

gossamer plan smollm2-135m
gossamer plan smollm2-135m --memory 2 --tokens 8192 --output plan.png
gossamer plan smollm2-135m --device cuda --memory 20       for a GPU, in bfloat16

Arithmetic on the model's sizes; nothing is loaded. Keys, values and adapters share one pool, so
each token less is room for adapters and each adapter less is room for tokens.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.basemodel.find import require_known
from gossamer.cli.parts.options import Options
from gossamer.cli.parts.tables import format_bytes, print_table
from gossamer.errors import SettingError
from gossamer.extras import require
from gossamer.serving.settings import PlanSettings

if TYPE_CHECKING:
    from gossamer.serving.pool_plan import PoolPlan

PLAN = Options(
    PlanSettings,
    names={"memory_gib": "memory"},
    metavars={"model": "NAME", "memory_gib": "GiB"},
    word="model",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    PLAN.add_to(parser)
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw the picture there")


def run(args: argparse.Namespace) -> int:
    """Print the tables; draw the picture where asked."""
    settings = PLAN.read(args)
    _check_output(args.output)
    require_known(settings.model)

    from gossamer.serving.pool_plan import plan_pool

    try:
        plan = plan_pool(settings)
    except SettingError as error:
        raise SettingError(PLAN.in_options(str(error))) from None
    _print(plan)
    if args.output is not None:
        _draw(plan, args.output)
        print(args.output)
    return 0


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    require("--output", "plot")
    if not output.absolute().parent.is_dir():
        raise SettingError(f"--output {output}: the folder does not exist")


def _draw(plan: "PoolPlan", output: Path) -> None:
    from gossamer.serving.pool_picture import draw_pool_plan

    settings = plan.settings
    title = f"{settings.model}: a pool of {plan.memory_gib:.4g} GiB"
    draw_pool_plan(
        plan.blocks_per_rank(), plan.num_blocks, settings.block_tokens, output, title=title
    )


def _print(plan: "PoolPlan") -> None:
    settings, sizes = plan.settings, plan.sizes
    each = f", each of {settings.tensor_parallel} processes" if settings.tensor_parallel > 1 else ""
    print(f"{settings.model}{each}: {sizes.num_parameters:,} parameters", end=", ")
    quantized = "" if sizes.quantization == "none" else f", linear layers as {sizes.quantization}"
    print(f"{format_bytes(sizes.weight_bytes)} in {plan.dtype}{quantized}")
    print(f"one token: {format_bytes(sizes.token_bytes)} of keys and values")
    print(
        f"pool of {plan.memory_gib:.4g} GiB: {plan.num_blocks} blocks of "
        f"{format_bytes(plan.block_bytes)}, {plan.num_tokens} tokens without adapters"
    )
    print(f"beside {plan.tokens} tokens, {plan.left} blocks are left for adapters", end="; ")
    print(f"rows in {plan.rows}\n")
    rows = [
        [
            name,
            format_bytes(cost.num_bytes),
            str(cost.num_blocks * settings.block_tokens),
            str(plan.left // cost.num_blocks),
            str(plan.num_blocks // cost.num_blocks),
        ]
        for name, cost in plan.costs.items()
    ]
    columns = ["one adapter", "weighs", "as many tokens", f"fit beside {plan.tokens}", "fit alone"]
    print_table(columns, rows)
    if any(cost.num_blocks > plan.left for cost in plan.costs.values()):
        print("0: larger than what is left; a request for it waits for room", file=sys.stderr)
