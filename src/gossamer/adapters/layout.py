"""What PEFT calls the files of an adapter folder and the tensors in them.

Names only, so that all who read, write or look for adapters can import them without tensors.
"""

from collections.abc import Sequence

from gossamer.errors import UnsupportedAdapterError

CONFIG_FILE = "adapter_config.json"
"""A folder with a file of this name is an adapter."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""Holds all tensors of an adapter."""
PICKLE_FILES = (
    "adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.ckpt"
)  # fmt: skip
"""Weights in formats that can run code; they are never read."""
PREFIX = "base_model.model."
"""What PEFT puts in front of the paths of modules."""
BASE_KEY = "gossamer_base"
"""Metadata key of the weights file: the fingerprint of the base model that an adapter was trained
on."""
QUANTIZATION_KEY = "gossamer_quantization"
"""Metadata key of the weights file: how that base model was quantised, such as bnb-4bit. Nothing is
said by its absence."""


def module_of_key(name: str, key: str, suffixes: Sequence[str], what: str) -> tuple[str, str]:
    """Split a tensor's name into (module path, suffix).

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
