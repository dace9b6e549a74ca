"""What the benchmarks share: random prompts and adapters, and a line about the machine."""

import datetime
import json
import os
import platform
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM


def describe_machine() -> str:
    """Date, processor, cores, versions."""
    import transformers

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{datetime.date.today()}: {model}, {os.cpu_count()} cores, {capability}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def random_prompts(folder: Path, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Distinct prompts of random token ids."""
    vocab = AutoConfig.from_pretrained(folder).vocab_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (count, length), generator=generator).tolist()


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(h_out, h_in) of the linear layers of the decoder, by module path."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def row_norms(folder: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Length of each row of the weights of the named linear layers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: model.get_submodule(name).weight.detach().norm(dim=1) for name in names}


def random_adapters(
    root: Path,
    folder: Path,
    count: int,
    rank: int,
    *,
    dtype: torch.dtype = torch.float32,
    prefix: str = "adapter",
    dora: bool = False,
    targets: Collection[str] | None = None,
) -> list[str]:
    """Write `count` adapters with small random weights; returns their names.

    targets: last names of the linear layers that they change; None: all.
    """
    shapes = {
        module: shape
        for module, shape in linear_shapes(folder).items()
        if targets is None or module.rpartition(".")[2] in targets
    }
    norms = row_norms(folder, shapes) if dora else {}
    names = []
    for index in range(count):
        name = f"{prefix}-{index}"
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for module, (h_out, h_in) in shapes.items():
            key = f"base_model.model.{module}"
            a = torch.randn(rank, h_in, generator=generator) / h_in**0.5
            b = torch.randn(h_out, rank, generator=generator) * 0.01
            tensors[f"{key}.lora_A.weight"] = a.to(dtype)
            tensors[f"{key}.lora_B.weight"] = b.to(dtype)
            if dora:
                magnitude = norms[module] * (1 + 0.05 * torch.randn(h_out, generator=generator))
                tensors[f"{key}.lora_magnitude_vector"] = magnitude.to(dtype)
        (root / name).mkdir()
        save_file(tensors, root / name / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(folder),
            "r": rank,
            "lora_alpha": rank,
            "target_modules": sorted({module.rsplit(".", 1)[-1] for module in shapes}),
            "bias": "none",
            "use_dora": dora,
        }
        (root / name / "adapter_config.json").write_text(json.dumps(config, indent=2))
        names.append(name)
    return names
