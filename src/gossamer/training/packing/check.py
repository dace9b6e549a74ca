"""Refuses what cannot be packed, and proves that a model keeps packed rows apart."""

from typing import Any

import torch
from torch import Tensor

from gossamer.errors import SettingError, UnsupportedModelError
from gossamer.methods import Method
from gossamer.training.settings import RunSettings

_REASONS = {
    "prefix": "its virtual tokens stand in front of a row",
    "intervention": "it edits the first and last tokens of each prompt",
}


def check_packing(settings: RunSettings, method: Method[Any]) -> None:
    """Raise `SettingError` if the run cannot learn from packed rows."""
    if not settings.packing:
        return
    if settings.lazy_data:
        raise SettingError(
            "packing cannot go with lazy_data: the lengths of all rows must be known; leave one of "
            "them out"
        )
    if settings.sparse_compute is not None:
        raise SettingError(
            "packing cannot go with sparse_compute: packed rows have no contiguous context; leave "
            "one of them out"
        )
    reason = _REASONS.get(method.kind)
    if reason is not None:
        raise SettingError(
            f"packing cannot go with method '{method.name}': {reason}; leave packing out, or use a "
            "method such as lora"
        )


@torch.no_grad()
def prove_packing(model: Any) -> None:
    """Raise `UnsupportedModelError` unless two rows packed into one get the logits that each gets
    alone: `model` must begin positions again and let no row see another."""
    device = next(model.parameters()).device
    size = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(3, 14, device=device) * 7 % size)[None]
    positions = torch.cat([torch.arange(6), torch.arange(5)])[None].to(device)
    was_training = model.training
    model.eval()
    try:
        packed = _logits(model, input_ids=ids, position_ids=positions)
        alone = [_logits(model, input_ids=part) for part in (ids[:, :6], ids[:, 6:])]
    finally:
        model.train(was_training)
    apart = torch.cat(alone, dim=1)
    # Roundings of bfloat16; a row that sees another is off by as much as logits differ.
    if (packed - apart).abs().max() > 0.1 * apart.std():
        raise UnsupportedModelError(
            f"packing: this {type(model).__name__} does not keep packed rows apart; leave packing "
            "out"
        )


def _logits(model: Any, **inputs: Tensor) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.float()
