"""SGLang's csgmv kernels (Apache-2.0), its default, on the work of `peers.work`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from peers.stand_ins import put_in, version_of
from peers.work import Factors, Prepared

NAME = "sglang csgmv"
CHUNK = 16
"""Tokens of a segment at most: the default of `--max-lora-chunk-size`, and for few tokens."""
OPS = "sglang.kernels.ops.lora"
PACKAGES = ["sglang", "sglang.kernels", "sglang.kernels.ops", OPS, f"{OPS}.dense", f"{OPS}.common"]


@dataclass
class LoRABatchInfo:
    """What csgmv's host code reads of the class of this name."""

    use_cuda_graph: bool
    num_segments: int
    seg_indptr: torch.Tensor
    weight_indices: torch.Tensor
    lora_ranks: torch.Tensor
    scalings: torch.Tensor
    permutation: torch.Tensor
    max_len: int


def load(root: Path, capability: int) -> str:
    """Make the files below `root` importable; returns their version."""
    name = "NVIDIA H200" if capability >= 90 else "NVIDIA A100"
    off = SimpleNamespace(get=lambda: False)
    envs = SimpleNamespace(
        SGLANG_ENABLE_LORA_CSGMV_SPLIT_K=off, SGLANG_ENABLE_DETERMINISTIC_INFERENCE=off
    )
    put_in(root, PACKAGES, {
        "sglang.srt": {},
        "sglang.srt.environ": {"envs": envs},
        "sglang.srt.utils": {
            "cached_triton_kernel": _as_it_is, "get_device_name": lambda: name,
        },
        "sglang.srt.lora": {},
        "sglang.srt.lora.utils": {"LoRABatchInfo": LoRABatchInfo},
    })  # fmt: skip
    return version_of(root, "sglang")


def _as_it_is(key: object) -> Callable[[Any], Any]:
    """Their cache of compiled handles spares the host time and changes no launch."""
    return lambda kernel: kernel


def prepare(factors: Factors) -> Prepared:
    """Weights [adapters, modules * max rank, h_in] and [adapters, h_out, max rank]."""
    from sglang.kernels.ops.lora.dense.chunked_sgmv_expand import chunked_sgmv_lora_expand_forward
    from sglang.kernels.ops.lora.dense.chunked_sgmv_shrink import chunked_sgmv_lora_shrink_forward

    a, b = stacked(factors)
    group, work, device = factors.group, factors.work, factors.device
    count, each = len(work.ranks), work.tokens_each
    ints = {"dtype": torch.int32}
    # Segments of up to CHUNK tokens with one adapter: where each begins, and its adapter.
    segments = [(slot * each + i, slot) for slot in range(count) for i in range(0, each, CHUNK)]
    batch = LoRABatchInfo(
        use_cuda_graph=True,
        num_segments=len(segments),
        seg_indptr=torch.tensor([*(first for first, _ in segments), work.tokens], **ints).to(
            device
        ),
        weight_indices=torch.tensor([slot for _, slot in segments], **ints).to(device),
        lora_ranks=torch.tensor(work.ranks, **ints).to(device),
        scalings=torch.ones(count).to(device),
        permutation=torch.arange(work.tokens, **ints).to(device),
        max_len=CHUNK,
    )
    slices = torch.tensor([0, *group.widths], **ints).cumsum(0).to(torch.int32)
    on_device = slices.to(device)
    y = factors.y.clone()
    made: list[torch.Tensor] = []

    def launch() -> None:
        v = chunked_sgmv_lora_shrink_forward(factors.x, a, batch, len(group.widths))
        made[:] = [v]
        chunked_sgmv_lora_expand_forward(
            v, b, batch, on_device, max(group.widths), y, slice_offsets_cpu=slices
        )

    return Prepared(
        launch=launch,
        y=y,
        buffers={
            "rows": [a, b], "x": [factors.x], "y": [y],
            "metadata": [
                batch.seg_indptr, batch.weight_indices, batch.lora_ranks, batch.scalings,
                batch.permutation, on_device,
            ],
        },
        scratch_of=lambda: made,
    )  # fmt: skip


def stacked(factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B in slots of the largest rank; an adapter's slices lie at multiples of its own."""
    group, work = factors.group, factors.work
    modules, count = len(group.widths), len(work.ranks)
    options = {"dtype": factors.dtype, "device": factors.device}
    a = torch.zeros(count, modules * work.max_rank, group.h_in, **options)
    b = torch.zeros(count, sum(group.widths), work.max_rank, **options)
    if factors.device != "meta":
        for slot, rank in enumerate(work.ranks):
            a[slot, : modules * rank] = torch.cat(factors.a[slot])
            b[slot, :, :rank] = torch.cat(factors.b[slot])
    return a, b
