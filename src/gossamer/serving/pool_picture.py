"""A picture of a plan of the pool: adapters against tokens."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gossamer.files import replacing


def draw_pool_plan(
    blocks_per_rank: Mapping[int, int],
    num_blocks: int,
    block_tokens: int,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw how many adapters fit beside how many tokens, as the PNG `path`."""
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
