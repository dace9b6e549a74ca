"""A whole model with its tokenizer, as transformers saves and loads it."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from gossamer.methods.method import MethodContext


def write_model(model: Any, folder: Path, context: MethodContext) -> None:
    """Write weights, configuration and tokenizer into `folder`."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(context.base_folder).save_pretrained(folder)


def read_model(model: Any, folder: Path) -> None:
    """Set the weights of `model` to those in `folder`."""
    # Loading through transformers undoes whatever renaming and sharding saving did.
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
