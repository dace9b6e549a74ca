"""Load a tokenizer or a model from a folder, with clear errors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.basemodel.files import read_config_json, require_tokenizer_files, weight_files
from gossamer.basemodel.pruned import MARK, register
from gossamer.basemodel.quantize import (
    keep_as_quantized,
    quantization_of,
    require_library,
    served_quantization,
)
from gossamer.basemodel.quantize import (
    quantization_config as config_of,
)
from gossamer.basemodel.quiet import quiet_transformers
from gossamer.basemodel.sharded import ModelPart, keep_local, loading_options
from gossamer.errors import CorruptModelError, SettingError, UnsupportedModelError

if TYPE_CHECKING:
    import torch


def load_config(folder: Path) -> Any:
    """The transformers config of the model in `folder`.

    Raises:
        ModelNotFoundError, CorruptModelError: no folder, no config.json, or a broken one.
        UnsupportedModelError: an architecture that transformers does not know.
    """
    model_type = _model_type(folder)
    from transformers import CONFIG_MAPPING, AutoConfig

    if model_type not in CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"transformers knows no architecture '{model_type}' (config.json in {folder}); models "
            "that bring their own code are not supported"
        )
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # its validation has exception classes of several libraries
        raise CorruptModelError(
            f"{folder / 'config.json'} is not usable: {_one_line(error)}"
        ) from None


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the model in `folder`.

    Raises:
        ModelNotFoundError, CorruptModelError: no folder, no tokenizer files, or broken ones.
    """
    _model_type(folder)
    require_tokenizer_files(folder)
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CorruptModelError(
            f"the tokenizer in {folder} is not usable: {_one_line(error)}"
        ) from None


def load_model(
    folder: Path,
    *,
    dtype: "torch.dtype",
    device: "str | torch.device" = "cpu",
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    part: ModelPart | None = None,
) -> Any:
    """The causal language model in `folder`, in eval mode, all weights in `dtype` on `device`.

    `attn_implementation` and `quantization_config` go to transformers. A model that is saved
    quantised stays so, and computes in `dtype`. A weight that the files lack is an error;
    transformers alone would start it at random. `part`: load what one rank of several computes (see
    `gossamer.basemodel.sharded`); their process group must exist.

    Raises:
        ModelNotFoundError, CorruptModelError: no folder, or files missing, truncated or unfit.
        UnsupportedModelError: not a causal language model, or weights stored as pickles.
        MissingExtraError: the library that the model was quantised with is not installed.
    """
    from gossamer.basemodel.support import check_supported

    config = load_config(folder)
    check_supported(config, for_serving=False)
    weight_files(folder)
    options: dict[str, Any] = {"dtype": dtype}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    saved = quantization_of(config)
    if saved != "none":
        require_library(saved)
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if part is not None:
        return _load_part(folder, config, part, options).to(device).eval()
    if saved == "none" and quantization_config is None:
        return read_weights(folder, options).to(device).eval()
    model = read_weights(folder, {**options, "device_map": {"": device}})
    keep_as_quantized(model, None if saved == "none" else dtype)
    return model.eval()


def load_served_model(
    folder: Path,
    quantization: str,
    *,
    dtype: "torch.dtype",
    device: "str | torch.device" = "cpu",
    part: ModelPart | None = None,
) -> Any:
    """The model in `folder` as it is served: quantised as it is saved, or as `quantization` says.

    Raises as `load_model`, and `SettingError` if the two contradict each other.
    """
    config = load_config(folder)
    name = served_quantization(config, quantization)
    wanted = None if name == quantization_of(config) else config_of(name, dtype)
    if part is not None and name != "none":
        raise SettingError(
            f"setting 'tensor_parallel' {part.size}: the base model's weights are quantised "
            f"({name}), and such layers are not divided among processes; leave one of the two out"
        )
    return load_model(folder, dtype=dtype, device=device, quantization_config=wanted, part=part)


def _model_type(folder: Path) -> str:
    """Return the model type of `folder`; transformers knows it then, if there is such a model."""
    model_type: str = read_config_json(folder)["model_type"]
    if model_type.startswith(MARK):
        register(model_type)
    return model_type


def require_chat_template(tokenizer: Any) -> None:
    """Raise `UnsupportedModelError` if the tokenizer cannot lay out a chat."""
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or "this model"
        raise UnsupportedModelError(
            f"the tokenizer of {name} has no chat template, so chats cannot be laid out; use an "
            "instruction-tuned model, plain text prompts, or put a chat_template.jinja beside it"
        )


def _load_part(folder: Path, config: Any, part: ModelPart, options: dict[str, Any]) -> Any:
    model = read_weights(folder, {**options, **loading_options(config, part)})
    keep_local(model, part)
    return model


def read_weights(folder: Path, options: dict[str, Any]) -> Any:
    """Let transformers load a causal language model from `folder`, with `options` of its own.

    Raises `CorruptModelError` if that fails, or if the files lack a weight of the model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CorruptModelError(
            f"the model in {folder} cannot be loaded: {_one_line(error)}"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise CorruptModelError(
            f"the weights in {folder} lack {len(missing)} tensor(s) of the model, such as "
            f"{missing[0]}"
        )
    return model


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
