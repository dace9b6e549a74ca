"""SGLang's triton_v2 kernels (Apache-2.0), a choice beside csgmv, on the work of `peers.work`.

Tiles are those of its own plan tables. The table of who is where, one launch at the start of a step
for all layers, is made before the launch that is looked at; its second stream is left out.
"""

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton

from peers import sglang_lora
from peers.stand_ins import put_in
from peers.work import Factors, Prepared

NAME = "sglang triton_v2"


class Phase(str, Enum):  # noqa: UP042 - as theirs, whose plans are read by value
    """Their kinds of steps."""

    DECODE = "decode"
    PREFILL = "prefill"


class Struct:
    """Their base of plain records, msgspec's."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept msgspec's options, which change nothing here."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


_architecture = "default"


def load(root: Path, capability: int) -> str:
    """Make the files below `root` importable, and csgmv's; returns their version."""
    global _architecture
    version = sglang_lora.load(root, capability)
    put_in(root, ["sglang.srt.lora", "sglang.srt.lora.dense"], {
        "sglang.srt.lora.utils": {
            "LoRABatchInfo": sglang_lora.LoRABatchInfo, "Phase": Phase,
        },
        "sglang.kernels.ops.lora.moe": {},
        "sglang.kernels.ops.lora.moe.virtual_experts": {"_align_block_size_jit": None},
        "msgspec": {"Struct": Struct},
    })  # fmt: skip
    from sglang.srt import environ

    environ.envs.SGLANG_LORA_DENSE_CONFIG_DIR = SimpleNamespace(get=lambda: None)
    _architecture = {9: "sm90", 8: "default"}.get(capability // 10, "sm100")
    return version


def prepare(factors: Factors) -> Prepared:
    """Weights as csgmv has them."""
    from sglang.kernels.ops.lora.common import lora_b, routing
    from sglang.kernels.ops.lora.common.lora_a import grouped_lora_a
    from sglang.srt.lora.dense.plan import AFamily, BFamily, DenseLoraKind, DensePlanTable

    group, work, device = factors.group, factors.work, factors.device
    count, modules = len(work.ranks), len(group.widths)
    a, b = sglang_lora.stacked(factors)
    table = DensePlanTable(_architecture, work.max_rank)
    plan = table.plan_for(
        DenseLoraKind.LINEAR, Phase.DECODE, work.planned, group.h_in, sum(group.widths)
    )
    if (plan.a_family, plan.b_family) != (AFamily.GROUPED, BFamily.GROUPED):
        raise NotImplementedError(f"a plan of {plan.a_family} and {plan.b_family}")
    ints = {"dtype": torch.int32}
    ranks = torch.tensor(work.ranks, **ints).to(device)
    scalings = torch.ones(count).to(device)
    slots = torch.tensor(work.adapter_of, **ints).to(device)
    route = routing.build_route(slots, max_loras=count, block_size=plan.block_size)
    step = plan.b_tiles["BLOCK_SIZE_N"]
    geometry = _geometry(lora_b, group.widths, step, device)
    split = plan.a_tiles.get("SPLIT_K", 1)
    bridge = torch.empty(work.tokens, modules * work.max_rank, dtype=factors.dtype, device=device)
    partial = torch.empty(split, *bridge.shape, device=device) if split > 1 else None
    tiles = triton.cdiv(route.sorted_pair_ids.numel(), route.block_size) * triton.cdiv(
        bridge.shape[1], plan.a_tiles["BLOCK_SIZE_N"]
    )
    counters = torch.zeros(tiles, **ints, device=device) if split > 1 else None
    y = factors.y.clone()

    def launch() -> None:
        grouped_lora_a(
            factors.x, a, bridge, route, config=plan.a_tiles, pair_input=True, lora_ranks=ranks,
            stack=modules, partial=partial, counters=counters,
        )  # fmt: skip
        lora_b.grouped_lora_b(
            bridge, b, y, route, geometry=geometry, config=plan.b_tiles, add_inplace=True,
            zero_sentinel=False, lora_ranks=ranks, scalings=scalings,
        )  # fmt: skip

    scratch = [t for t in (bridge, partial, counters) if t is not None]
    metadata = [
        ranks, scalings, route.sorted_pair_ids, route.block_bucket_ids,
        route.num_pairs_post_padded, geometry.slice_offsets, geometry.out_offsets,
    ]  # fmt: skip
    return Prepared(
        launch=launch,
        y=y,
        buffers={
            "rows": [a, b], "x": [factors.x], "y": [y], "metadata": metadata, "scratch": scratch,
        },
    )  # fmt: skip


def _geometry(lora_b: Any, widths: tuple[int, ...], step: int, device: str) -> Any:
    """As their `slice_geometry` makes it, which needs a CUDA device."""
    ends = [0, *torch.tensor(widths).cumsum(0).tolist()]
    uniform = widths[0] if len(set(widths)) == 1 else 0
    stride = ends[1] if len(widths) > 1 else uniform
    is_regular = stride > 0 and all(low == i * stride for i, low in enumerate(ends[:-1]))
    return lora_b.SliceGeometry(
        slice_offsets=torch.tensor(ends, dtype=torch.int32).to(device),
        out_offsets=torch.tensor(ends[:-1], dtype=torch.int32).to(device),
        num_slices=len(widths),
        num_column_tiles=sum(triton.cdiv(width, step) for width in widths),
        uniform_width=uniform,
        out_stride=stride if is_regular else 0,
        full_tiles=all(width % step == 0 for width in widths),
        block_size_n=step,
    )
