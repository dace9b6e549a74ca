"""Quantised base models: the ways to quantise one at loading, and the names of those ways.

Training (`qlora`), serving and verification share them, so that an adapter meets the weights that
it was trained on. Importing this module loads nothing heavy.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from gossamer.errors import SettingError, UnsupportedModelError
from gossamer.extras import require

if TYPE_CHECKING:
    import torch

Quantization = Literal["none", "bnb-4bit", "bnb-4bit-single", "bnb-8bit", "int8"]
"""What a base model can be quantised to at loading. `bnb-4bit` is NF4 with quantised scales, what
`qlora` trains on; `-single` leaves the scales whole, as `qlora` with `double_quant=false`."""

_EXTRAS = {"bnb": "qlora", "int8": "int8"}
_SERVED = "bitsandbytes' 4-bit (nf4, fp4) and 8-bit, torchao's int8 weight-only"


def nf4_config(dtype: str, *, double_quant: bool) -> Any:
    """Ask transformers for linear layers in NF4, blocks of 64 weights, products in `dtype`."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def quantization_config(name: str, dtype: "torch.dtype") -> Any:
    """The transformers config that quantises as `name` says, products in `dtype`; None: "none".

    Raises `MissingExtraError` where the library is not installed.
    """
    require_library(name)
    make = _CONFIGS[name]
    return make(str(dtype).removeprefix("torch."))


def require_library(name: str) -> None:
    """Raise `MissingExtraError` if what the way `name` needs is not installed."""
    for beginning, extra in _EXTRAS.items():
        if name.startswith(beginning):
            require(f"a base model quantised as {name}", extra)


def quantization_of(config: Any) -> str:
    """Name how the model of this transformers config is quantised; "none" if it is not.

    The names of `Quantization`, and `bnb-4bit-fp4` and `bnb-4bit-fp4-single`; what is not served is
    called by the name of its library.
    """
    return name_of(getattr(config, "quantization_config", None))


def name_of(given: Any) -> str:
    """Name a transformers quantization config, or the dict of one, as `quantization_of` does."""
    if given is None:
        return "none"
    fields: dict[str, Any] = given if isinstance(given, dict) else given.to_dict()
    library = fields.get("quant_method", "an unknown way")
    library = str(getattr(library, "value", library))
    if library == "bitsandbytes":
        return _bitsandbytes(fields)
    if library == "torchao":
        return _torchao(fields)
    return library


def _bitsandbytes(fields: dict[str, Any]) -> str:
    if fields.get("load_in_4bit"):
        kind = "" if fields.get("bnb_4bit_quant_type", "fp4") == "nf4" else "-fp4"
        return f"bnb-4bit{kind}{'' if fields.get('bnb_4bit_use_double_quant') else '-single'}"
    if fields.get("llm_int8_has_fp16_weight"):
        return "bitsandbytes (llm_int8_has_fp16_weight)"
    return "bnb-8bit"


def _torchao(fields: dict[str, Any]) -> str:
    way = fields.get("quant_type")
    way = way.get("default", way) if isinstance(way, dict) else way
    name = str(way.get("_type", way) if isinstance(way, dict) else way)
    if name != "Int8WeightOnlyConfig" or fields.get("include_input_output_embeddings"):
        return f"torchao ({name})"
    return "int8"


def check_served(config: Any) -> None:
    """Raise `UnsupportedModelError` for a model that is saved quantised in a way not served."""
    name = quantization_of(config)
    if name != "none" and name != "int8" and not name.startswith("bnb-"):
        raise UnsupportedModelError(
            f"base models quantised by {name} cannot be served; served are {_SERVED}; give the "
            "unquantised model, which --quantization quantises when it is loaded"
        )


def served_quantization(config: Any, asked: str) -> str:
    """How a model is served: as it is saved, or quantised at loading as `asked`.

    Raises `SettingError` if it is saved quantised in another way than was asked for.
    """
    saved = quantization_of(config)
    if saved == "none" or asked in ("none", saved):
        return asked if saved == "none" else saved
    raise SettingError(
        f"setting 'quantization' {asked}: the base model is saved quantised already ({saved}); "
        "leave the setting out, or give the unquantised model"
    )


def linear_bytes(name: str, h_out: int, h_in: int) -> int:
    """Bytes of the weight [h_out, h_in] of a linear layer that is quantised as `name` says.

    4 bits: a code of half a byte for each number and a scale for each 64; the scale takes 4 bytes,
    or one and 4 more for each 256 scales. 8 bits: a byte for each number, 4 for each row's scale;
    torchao keeps a zero point beside it.
    """
    count = h_out * h_in
    if not name.startswith("bnb-4bit"):
        return count + (5 if name == "int8" else 4) * h_out
    scales = -(-count // 64)
    return -(-count // 2) + (4 * scales if name.endswith("single") else scales + scales // 64)


def stored_bytes(model: Any) -> int:
    """Bytes of all weights of a loaded model, quantised ones with their scales."""
    return sum(_stored_bytes(parameter) for parameter in model.parameters())


def _stored_bytes(weight: Any) -> int:
    if hasattr(weight, "__tensor_flatten__"):  # torchao's, made of several tensors
        return sum(int(getattr(weight, name).nbytes) for name in weight.__tensor_flatten__()[0])
    scales = [getattr(weight, "SCB", None)]
    if state := getattr(weight, "quant_state", None):
        scales += [state.absmax, state.state2.absmax if state.nested else None]
    return int(weight.nbytes) + sum(int(s.nbytes) for s in scales if s is not None)


def keep_as_quantized(model: Any, compute_dtype: "torch.dtype | None" = None) -> None:
    """Let a model that has been loaded compute with the weights that were quantised, exactly.

    `compute_dtype`: what products of 4-bit weights are computed in; None: what the config says.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # That packing, where a CPU with bf16 units evaluates, rounds the scales to bfloat16, so
            # that what is evaluated is not what was trained, and raises where the inputs of a layer
            # are not a multiple of the block.
            module.support_avx512bf16_for_cpu = False
            if compute_dtype is not None:
                module.compute_dtype, module.compute_type_is_set = compute_dtype, True
        elif type(module).__name__ == "Linear8bitLt":
            # LLM.int8 rounds activations too, and computes those apart that stick out anywhere in
            # the batch: a row's result would depend on its neighbours.
            module.forward = partial(_weight_only_product, module)


def _weight_only_product(layer: Any, x: "torch.Tensor") -> "torch.Tensor":
    """What bitsandbytes computes where it trains on a CPU: x times the whole weights."""
    from bitsandbytes.autograd._functions import MatMul8bitFp

    # What PEFT does for DoRA can bring the one back without the other, which the state then has.
    if layer.weight.CB is not None and layer.weight.SCB is not None:
        layer.init_8bit_state()
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    y: torch.Tensor = MatMul8bitFp.apply(x, layer.weight, None, bias, layer.state)
    return y


def _eight_bits(dtype: str) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _int8(dtype: str) -> Any:
    with quiet_torchao():
        from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


@contextmanager
def quiet_torchao() -> Iterator[None]:
    """Silence what torchao says of kernels for other machines when it is first imported."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_CONFIGS: dict[str, Callable[[str], Any]] = {
    "none": lambda dtype: None,
    "bnb-4bit": partial(nf4_config, double_quant=True),
    "bnb-4bit-single": partial(nf4_config, double_quant=False),
    "bnb-8bit": _eight_bits,
    "int8": _int8,
}
