"""From an adapter folder to the folder of a merged model; the work of `gossamer adapters merge`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.adapters.config import read_config
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.basemodel.find import resolve
from gossamer.errors import GossamerError, UsageError
from gossamer.files import replacing_folder, storing
from gossamer.machine import fit_threads


def merge_to_folder(
    adapter: Path,
    output: Path,
    *,
    model: str | None = None,
    overwrite: bool = False,
    limits: AdapterLimits | None = None,
) -> None:
    """Write to `output` the base model with `adapter` folded in, and its tokenizer.

    The folder appears whole or not at all; the weights keep the number format of the base's files.

    Raises:
        UsageError: `output` is in use, or the adapter names no base and `model` is not given.
        AdapterError, BaseModelError: either of the two cannot be used.
    """
    output = output.resolve()
    limits = limits or AdapterLimits()
    config = read_config(adapter, limits)
    _check_output(output, overwrite=overwrite)
    base = base_of(adapter, config, model)
    _refuse_inputs(output, [base, adapter])
    merged, tokenizer = _merged(adapter, config, base, limits)
    _store(merged, tokenizer, output)


def base_of(adapter: Path, config: Mapping[str, Any], model: str | None) -> Path:
    """Find the folder of the base model: `model`, or else the one that the adapter's config names.

    Raises `UsageError` if there is no name, or as `resolve`.
    """
    name = model or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UsageError(f"adapter {adapter.name} names no base model; give it with --model")
    try:
        return resolve(name)
    except GossamerError as error:
        if model is None:
            message = f"{error}; the adapter's config names it as the base, --model overrides it"
            raise type(error)(message) from None
        raise


def _merged(
    adapter: Path, config: Mapping[str, Any], base: Path, limits: AdapterLimits
) -> tuple[Any, Any]:
    import torch

    from gossamer.adapters.merge import merge_into
    from gossamer.adapters.reading.budget import Budget
    from gossamer.basemodel.files import fingerprint
    from gossamer.basemodel.load import load_config, load_model, load_tokenizer

    fit_threads()
    tokenizer = load_tokenizer(base)
    dtype = getattr(load_config(base), "dtype", None) or torch.float32
    print(f"loading {base}", file=sys.stderr)
    model = load_model(base, dtype=dtype)
    budget = Budget(limits=limits)
    count = merge_into(
        model, adapter, base_fingerprint=fingerprint(base), budget=budget, config=config
    )
    print(f"merged {adapter.name} into {count} layers", file=sys.stderr)
    return model, tokenizer


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"--output {output} is not empty; choose another or add --overwrite")
    if not (output / "config.json").is_file():
        raise UsageError(f"--output {output} is not a model folder, so it is not overwritten")


def _refuse_inputs(output: Path, inputs: list[Path]) -> None:
    for folder in inputs:
        source = folder.resolve()
        if source == output or output in source.parents:
            raise UsageError(f"--output {output} holds the input {folder}; choose another folder")


def _store(model: Any, tokenizer: Any, output: Path) -> None:
    from gossamer.basemodel.files import open_to_readers
    from gossamer.basemodel.quiet import quiet_transformers

    with (
        storing(f"cannot write --output {output}"),
        replacing_folder(output) as finished,
        quiet_transformers(),
    ):
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        open_to_readers(finished)
