"""vLLM's LoRA kernels (Apache-2.0) on the work of `peers.work`, called as by its Punica wrapper."""

import logging
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
import triton.language as tl

from peers.stand_ins import put_in, version_of
from peers.work import Factors, Prepared

NAME = "vllm"
PACKAGES = ["vllm", "vllm.lora", "vllm.lora.ops", "vllm.lora.ops.triton_ops"]


def load(root: Path, capability: int) -> str:
    """Make the files below `root` importable; returns their version."""
    platform = SimpleNamespace(
        is_cuda=lambda: True,
        has_device_capability=lambda least: capability >= least,
        is_device_capability=lambda exact: capability == exact,
    )
    envs = SimpleNamespace(
        VLLM_BATCH_INVARIANT=False, VLLM_TUNED_CONFIG_FOLDER=None, VLLM_LORA_DISABLE_PDL=False,
        VLLM_LORA_ENABLE_DUAL_STREAM=False,
    )  # fmt: skip
    logger = SimpleNamespace(
        info_once=logging.info, warning_once=logging.info, info=logging.info, warning=logging.info
    )
    put_in(root, PACKAGES, {
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.envs": vars(envs),
        "vllm.platforms": {"current_platform": platform},
        "vllm.logger": {"init_logger": lambda name: logger},
        "vllm.utils": {},
        "vllm.utils.math_utils": {"next_power_of_2": triton.next_power_of_2},
        "vllm.utils.torch_utils": {
            "async_tensor_h2d": _to_device, "direct_register_custom_op": _not_registered,
        },
    })  # fmt: skip
    return version_of(root, "vllm")


def _to_device(values: list[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).to(device)


def _not_registered(**names: object) -> None:
    """The plain function is used, without torch's registry."""
    raise AttributeError


def prepare(factors: Factors) -> Prepared:
    """Weights [adapters, 1, max rank, h], padded with zeros; as many slots as tokens."""
    from vllm.lora.ops.triton_ops import utils
    from vllm.lora.ops.triton_ops.lora_expand_op import lora_expand
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
    from vllm.lora.ops.triton_ops.lora_shrink_op import lora_shrink

    # Addresses are the keys; those of an earlier group, or of "meta", would be taken for these.
    utils._LORA_A_PTR_DICT.clear()
    utils._LORA_B_PTR_DICT.clear()
    group, work, device = factors.group, factors.work, factors.device
    count = len(work.ranks)
    options = {"dtype": factors.dtype, "device": device}
    a = [torch.zeros(count, 1, work.max_rank, group.h_in, **options) for _ in group.widths]
    b = [torch.zeros(count, 1, width, work.max_rank, **options) for width in group.widths]
    if device != "meta":
        for slot, rank in enumerate(work.ranks):
            for m in range(len(group.widths)):
                a[m][slot, 0, :rank] = factors.a[slot][m]
                b[m][slot, 0, :, :rank] = factors.b[slot][m]
    meta = LoRAKernelMeta.make(count, work.tokens, "cpu")
    meta.prepare_tensors(torch.tensor(work.adapter_of, dtype=torch.int32))
    on_host = {"no_lora_flag_cpu", "num_active_loras_cpu", "default_num_active_loras_cpu"}
    for name, value in vars(meta).items():
        if isinstance(value, torch.Tensor) and name not in on_host:
            setattr(meta, name, value.to(device))
    arguments = meta.meta_args(work.tokens, False)
    y = factors.y.clone()
    buffers: list[torch.Tensor] = []

    def launch() -> None:
        shape = len(group.widths), work.tokens, work.max_rank
        buffer = torch.empty(shape, dtype=torch.float32, device=device)
        buffers[:] = [buffer]
        lora_shrink(factors.x, a, buffer, *arguments, 1.0)
        lora_expand(buffer, b, y, *arguments, offset_start=0, add_inputs=True)

    metadata = [t for t in arguments if t.device.type == torch.device(device).type]
    return Prepared(
        launch=launch,
        y=y,
        buffers={"rows": [*a, *b], "x": [factors.x], "y": [y], "metadata": metadata},
        scratch_of=lambda: buffers,
    )
