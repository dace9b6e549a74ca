"""Where the virtual tokens start."""

from typing import Any

import torch

from gossamer.methods.low_rank_result import ADAPTER


def start_from(model: Any, ids: torch.Tensor) -> None:
    """Set the virtual tokens of a `PeftModel` to the embeddings of the tokens `ids`."""
    embeddings = model.get_base_model().get_input_embeddings()
    with torch.no_grad():
        model.prompt_encoder[ADAPTER].embedding.weight.copy_(embeddings(ids))
