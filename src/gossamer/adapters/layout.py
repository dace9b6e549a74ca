"""What PEFT calls the files of an adapter folder and the tensors in them."""

from collections.abc import Sequence

import torch

from gossamer.errors import UnsupportedAdapterError

PREFIX = "base_model.model."
"""What PEFT puts in front of module paths."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def module_of_key(name: str, key: str, suffixes: Sequence[str], what: str) -> tuple[str, str]:
    """(module path, suffix) of a tensor's name.

    Raises `UnsupportedAdapterError` for a tensor that is not `what`.
    """
    for suffix in suffixes:
        if key.startswith(PREFIX) and key.endswith(suffix):
            return key[len(PREFIX) : -len(suffix)], suffix
    if ".lora_embedding_" in key or key.endswith(("embed_tokens.weight", "lm_head.weight")):
        raise UnsupportedAdapterError(
            f"adapter {name} changes the embeddings or the output layer ({key}), which is not "
            "supported; merge it into its base model with PEFT instead"
        )
    raise UnsupportedAdapterError(
        f"adapter {name} holds the tensor {key}, which is not {what} of a linear layer"
    )


def require_number_format(name: str, key: str, dtype: torch.dtype) -> None:
    """Raise `UnsupportedAdapterError` unless `dtype` is float32, float16 or bfloat16."""
    if dtype not in _FLOATS:
        raise UnsupportedAdapterError(
            f"adapter {name}: {key} is stored as {dtype}; save it as float32, float16 or bfloat16"
        )


CONFIG_NAME = "adapter_config.json"
