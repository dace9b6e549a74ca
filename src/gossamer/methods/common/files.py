"""The files of a result or a checkpoint: an adapter, all that learns, or a whole model.

An adapter's two files are in PEFT's layout, byte for byte the same for the same weights.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from gossamer.adapters.layout import BASE_KEY, CONFIG_FILE, QUANTIZATION_KEY, WEIGHTS_FILE
from gossamer.basemodel.quantize import quantization_of
from gossamer.methods.common.method import MethodContext


def write_adapter(model: Any, folder: Path, *, base_name: str, base_fingerprint: str) -> None:
    """Write the adapter of the `PeftModel` `model` into the existing folder `folder`.

    The two files are those of `save_pretrained`, except that lists which PEFT writes in the random
    order of a set are sorted, `base_model_name_or_path` is `base_name`, and the weights carry
    `base_fingerprint` and how the base is quantised, if it is. The configuration comes last: a
    folder that has one is complete.
    """
    with TemporaryDirectory(prefix=".adapter-", dir=folder) as scratch, _without_card(model):
        # "auto" would ask a hub whether the vocabulary was resized.
        model.save_pretrained(scratch, save_embedding_layers=False)
        weights = load_file(Path(scratch) / WEIGHTS_FILE)
        config = json.loads((Path(scratch) / CONFIG_FILE).read_text())
    write_files(
        folder,
        config,
        weights,
        base_name=base_name,
        base_fingerprint=base_fingerprint,
        quantization=quantization_of(model.get_base_model().config),
    )


@contextmanager
def _without_card(model: Any) -> Iterator[None]:
    """Save no model card of PEFT's: it would be thrown away, and takes long to make."""
    model.create_or_update_model_card = lambda folder: None
    try:
        yield
    finally:
        del model.create_or_update_model_card


def write_files(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    base_name: str,
    base_fingerprint: str,
    quantization: str = "none",
) -> None:
    """Write the fields of a `PeftConfig` and an adapter's weights, named as PEFT names them."""
    metadata = {"format": "pt", BASE_KEY: base_fingerprint}
    if quantization != "none":
        metadata[QUANTIZATION_KEY] = quantization
    content = save(dict(weights), metadata=metadata)
    (folder / WEIGHTS_FILE).write_bytes(_reproducible(content))
    config = {**config, "base_model_name_or_path": base_name}
    for key in ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"):
        if isinstance(config.get(key), list | set):
            config[key] = sorted(config[key])
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_adapter(model: Any, folder: Path) -> None:
    """Set the adapter weights of the `PeftModel` `model` to those in `folder`."""
    result = set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE))
    if result.unexpected_keys:
        raise RuntimeError(f"{folder} holds weights the model lacks: {result.unexpected_keys[:3]}")


def _reproducible(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file; safetensors writes them in any order.

    Layout: length of the header as 8 bytes, the header in JSON padded with spaces to a multiple of
    8, the tensors, whose offsets count from the end of the header.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


LEARNT_FILE = "learnt.safetensors"
_LEARNT, _MORE = "learnt.", "more."


def write_learnt(model: Any, folder: Path, more: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write every weight of `model` that learns, and the tensors `more`, into `folder`."""
    tensors = {f"{_LEARNT}{n}": p for n, p in model.named_parameters() if p.requires_grad}
    tensors |= {f"{_MORE}{name}": tensor for name, tensor in (more or {}).items()}
    # A clone each: safetensors refuses tensors that share memory.
    save_file(
        {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, folder / LEARNT_FILE
    )


def read_learnt(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Set the weights of `model` to those in `folder`; returns what was given as `more`."""
    stored = load_file(folder / LEARNT_FILE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(stored[_LEARNT + name])
    return {k.removeprefix(_MORE): t for k, t in stored.items() if k.startswith(_MORE)}


def write_model(model: Any, folder: Path, context: MethodContext) -> None:
    """Write weights, configuration and tokenizer into `folder`."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(context.base_folder).save_pretrained(folder)


def read_model(model: Any, folder: Path) -> None:
    """Set the weights of `model` to those in `folder`."""
    # Loading through transformers undoes whatever renaming and sharding saving did.
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
