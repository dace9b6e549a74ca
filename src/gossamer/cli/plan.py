"""Tell what fits into memory: adapters of which rank and kind, beside how many tokens.

gossamer plan smollm2-135m
gossamer plan smollm2-135m --memory 2 --tokens 8192 --output plan.png

Arithmetic on the model's sizes; nothing is loaded. Keys, values and adapters share one pool, so
each token less is room for adapters and each adapter less is room for tokens.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.basemodel.find import require_known, resolve
from gossamer.cli._options import add_word, one_of_word_and_option
from gossamer.cli._tables import format_bytes, print_table
from gossamer.errors import SettingError
from gossamer.extras import require
from gossamer.files import replacing


def draw_plan(
    blocks_per_rank: Mapping[int, int],
    num_blocks: int,
    block_tokens: int,
    path: Path,
    *,
    title: str,
) -> None:
    """How many adapters fit beside how many tokens, as the PNG `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [num_blocks * i // 200 for i in range(201)]
    tokens = [blocks * block_tokens for blocks in steps]
    for index, (rank, blocks) in enumerate(blocks_per_rank.items()):
        fitting = [(num_blocks - taken) // blocks for taken in steps]
        colour = (0.12, 0.25 + 0.12 * index, 0.75 - 0.12 * index)
        axes.step(tokens, fitting, where="post", color=colour, label=f"rank {rank}")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, tokens[-1])
    axes.set(xlabel="tokens of running requests", ylabel="adapters that fit (all linear layers)")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


if TYPE_CHECKING:
    from gossamer.serving.packing.capacity import BaseSizes, Cost

_GIB = 1024**3
_WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_word(parser, "model", "NAME")
    parser.add_argument("--model", metavar="NAME", help="alias, folder or hub id")
    parser.add_argument(
        "--memory", type=float, metavar="GiB", default=4.0, help="size of the pool [default: 4]"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="tokens of all running requests together; default: half of the pool",
    )
    parser.add_argument(
        "--rows",
        choices=list(_WIDTHS),
        default="float32",
        help="how low-rank rows rest in memory [default: float32]",
    )
    parser.add_argument("--block-tokens", type=int, metavar="N", default=16, help="as for serve")
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw the picture there")


def run(args: argparse.Namespace) -> int:
    """Print the tables; draw the picture where asked."""
    _check(args)
    args.model = one_of_word_and_option(args, "model", args.model)
    if args.model is None:
        raise SettingError("--model NAME is required, or NAME alone")
    require_known(args.model)

    from gossamer.serving.packing.capacity import PoolSizes
    from gossamer.serving.packing.kinds import usual_costs
    from gossamer.serving.packing.low_rank import EXAMPLE_RANKS
    from gossamer.serving.runner.model_shape import base_sizes

    sizes = base_sizes(resolve(args.model))
    block_bytes = sizes.token_bytes * args.block_tokens
    widest = max(max(shape) for shape in sizes.shape.linears.values()) * 4
    if block_bytes < widest:
        raise SettingError(
            f"--block-tokens {args.block_tokens}: a block must hold the widest adapter row "
            f"({widest} bytes); give at least {-(-widest // sizes.token_bytes)}"
        )
    num_blocks = int(args.memory * _GIB) // block_bytes
    tokens = num_blocks * args.block_tokens // 2 if args.tokens is None else args.tokens
    left = num_blocks - -(-tokens // args.block_tokens)
    if left < 0:
        raise SettingError(
            f"--tokens {tokens}: the pool of {args.memory:g} GiB holds "
            f"{num_blocks * args.block_tokens} tokens; give fewer or more --memory"
        )
    costs = usual_costs(
        PoolSizes(base=sizes, block_tokens=args.block_tokens, row_width=_WIDTHS[args.rows])
    )
    _print(args, sizes, num_blocks, tokens, left, costs)
    if args.output is not None:
        per_rank = {
            rank: costs[f"low-rank {rank}, all linear"].num_blocks for rank in EXAMPLE_RANKS
        }
        title = f"{args.model}: a pool of {args.memory:g} GiB"
        draw_plan(per_rank, num_blocks, args.block_tokens, args.output, title=title)
        print(args.output)
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, value, least in (
        ("--memory", args.memory, 0.0),
        ("--tokens", args.tokens, -1),
        ("--block-tokens", args.block_tokens, 0),
    ):
        if value is not None and not value > least:
            raise SettingError(f"{name} {value:g} is not above {least:g}")
    if args.output is None:
        return
    require("--output", "plot")
    if not args.output.absolute().parent.is_dir():
        raise SettingError(f"--output {args.output}: the folder does not exist")


def _print(
    args: argparse.Namespace,
    sizes: "BaseSizes",
    num_blocks: int,
    tokens: int,
    left: int,
    costs: "dict[str, Cost]",
) -> None:
    block_bytes = sizes.token_bytes * args.block_tokens
    print(f"{args.model}: {sizes.num_parameters:,} parameters", end=", ")
    print(f"{format_bytes(4 * sizes.num_parameters)} in float32")
    print(f"one token: {format_bytes(sizes.token_bytes)} of keys and values")
    print(
        f"pool of {args.memory:g} GiB: {num_blocks} blocks of {format_bytes(block_bytes)}, "
        f"{num_blocks * args.block_tokens} tokens without adapters"
    )
    print(f"beside {tokens} tokens, {left} blocks are left for adapters; rows in {args.rows}\n")
    rows = [
        [
            name,
            format_bytes(cost.num_bytes),
            str(cost.num_blocks * args.block_tokens),
            str(left // cost.num_blocks),
            str(num_blocks // cost.num_blocks),
        ]
        for name, cost in costs.items()
    ]
    columns = ["one adapter", "weighs", "as many tokens", f"fit beside {tokens}", "fit alone"]
    print_table(columns, rows)
    if any(cost.num_blocks > left for cost in costs.values()):
        print("0: larger than what is left; a request for it waits for room", file=sys.stderr)
