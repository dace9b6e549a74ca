"""The models that MEFT makes reversible, and where their decoder layers are."""

from typing import Any

from torch import nn

from gossamer.adapters.kinds.networks.two_streams import BLOCK_PARTS, MODEL_TYPES
from gossamer.errors import UnsupportedAdapterError


def decoder_blocks(model: Any) -> tuple[str, list[nn.Module]]:
    """Return the path of the list of decoder layers of `model`, and the layers.

    Raises `UnsupportedAdapterError` for models that do not norm before attention and before the MLP
    and nowhere else, and for layers that lie on several devices.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else None
    kind = getattr(config, "model_type", type(model).__name__)
    found = [
        (path, list(module))
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(map(_is_layer, module))
    ]
    if config is None or kind not in MODEL_TYPES or len(found) != 1:
        raise UnsupportedAdapterError(
            f"MEFT cannot make a model of type '{kind}' reversible: its equations are written for "
            f"the layers of {', '.join(MODEL_TYPES)}"
        )
    path, layers = found[0]
    devices = {str(p.device) for layer in layers for p in layer.parameters() if not p.is_meta}
    if len(devices) > 1:
        raise UnsupportedAdapterError(
            f"MEFT: the decoder layers lie on {', '.join(sorted(devices))}, but the streams pass "
            "through all of them at once; load the model onto one device"
        )
    return path, layers


def _is_layer(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in BLOCK_PARTS)
