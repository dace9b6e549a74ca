"""The part of a model for pictures and text that reads and writes text alone, as a model itself.

Gemma 3 from 4B on and Mistral Small are such models: their config holds one of the text part, and
the names of their weights begin with the part that they belong to.
"""

from pathlib import Path
from typing import Any

from gossamer.basemodel.files import open_to_readers, weight_files
from gossamer.basemodel.load import load_config, load_tokenizer, read_weights
from gossamer.basemodel.quiet import quiet_transformers
from gossamer.errors import UnsupportedModelError, UsageError
from gossamer.files import replacing_folder, storing

_NAMES = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""What the names of the text part's weights begin with, and begin with in a model of its own."""


def write_text_part(folder: Path, output: Path) -> None:
    """Write the text part of the model in `folder`, with its tokenizer, as a model to `output`.

    Raises:
        UsageError: there is something at `output`, or the model has no other parts.
        UnsupportedModelError: the text part is no causal language model that transformers knows.
        ModelNotFoundError, CorruptModelError: as `load_model`, or there are no weights of the part.
    """
    config = load_config(folder)
    if config.get_text_config() is config:
        raise UsageError(
            f"the model in {folder} is one of text alone ('{config.model_type}'); use it as it is"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} exists and is not empty; choose another folder")
    tokenizer = load_tokenizer(folder)
    model = _load(folder, config.get_text_config())
    with (
        storing(f"cannot write --output {output}"),
        replacing_folder(output) as finished,
        quiet_transformers(),
    ):
        # Under the names of a model of its own, not back under those that it was read from.
        model.save_pretrained(finished, save_original_format=False)
        tokenizer.save_pretrained(finished)
        open_to_readers(finished)


def _load(folder: Path, config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(
            f"the text part of the model in {folder} is of architecture '{config.model_type}', of "
            "which transformers knows no causal language model"
        )
    weight_files(folder)
    return read_weights(folder, {"config": config, "key_mapping": _NAMES, "dtype": "auto"})
