"""The token ids that end a text, and whether the model can produce them at all."""

import logging
from typing import Any

from gossamer.errors import CorruptModelError

log = logging.getLogger(__name__)


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a text, as `generation_config.json` and the tokenizer name them.

    Raises `CorruptModelError` for one that is no id, or beyond the model's logits: masking it would
    fail, and no text would ever end by it. Other special tokens beyond them are only told: texts
    that contain one are refused when they come.
    """
    width = _width(model)
    sources = (
        ("generation_config.json", "eos_token_id", model.generation_config.eos_token_id),
        ("the tokenizer", "eos_token_id", tokenizer.eos_token_id),
    )
    found = frozenset(i for source in sources for i in _ids(*source, width=width))
    _check_added(tokenizer, width)
    beyond = sorted(i for i in tokenizer.all_special_ids if not 0 <= i < width)
    if beyond:
        log.warning(
            "special tokens %s of the tokenizer lie beyond the model's %d; texts with one of them "
            "are refused",
            beyond[:10],
            width,
        )
    return found


def _width(model: Any) -> int:
    """The number of logits per token; may be more than the tokenizer's vocabulary."""
    head = model.get_output_embeddings()
    return int(head.weight.shape[0] if head is not None else model.config.vocab_size)


def _ids(source: str, field: str, value: Any, *, width: int) -> list[int]:
    ids = value if isinstance(value, list | tuple) else [value]
    for each in ids:
        if each is None:
            continue
        if isinstance(each, bool) or not isinstance(each, int):
            raise CorruptModelError(
                f"{source}: {field} = {str(each)[:100]} is no token id; correct it"
            )
        if not 0 <= each < width:
            raise CorruptModelError(
                f"{source}: {field} {each} lies beyond the model's {width} tokens (0 to "
                f"{width - 1}); correct it"
            )
    return [each for each in ids if each is not None]


def _check_added(tokenizer: Any, width: int) -> None:
    """Check the tokens that the tokenizer adds to every text."""
    beyond = [i for i in tokenizer("").input_ids if not 0 <= i < width]
    if beyond:
        raise CorruptModelError(
            f"the tokenizer adds token {beyond[0]} to every text, which lies beyond the model's "
            f"{width} tokens; correct tokenizer_config.json"
        )
