"""Methods that learn something in front of the text: what prompt, prefix and P-tuning share."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from gossamer.methods.method import MethodContext, MethodSettings, S
from gossamer.methods.peft_method import PeftMethod


class SoftPromptSettings(MethodSettings):
    """Settings of every method of this sort."""


class SoftPromptMethod(PeftMethod[S]):
    """The result is PEFT's files; checkpoints hold all that learns, encoders included."""

    dense_because = "it puts learnt tokens in front of the text"

    @abstractmethod
    def peft_config(self, model: Any, context: MethodContext) -> Any: ...

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.learnt_state import write_learnt

        write_learnt(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        from gossamer.methods.learnt_state import read_learnt

        read_learnt(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        super().save(model, folder, context)


def start_tokens(model: Any, context: MethodContext, count: int, text: str | None) -> Any:
    """Ids [count] of the tokens to start from: those of `text`, repeated or cut, or random ones."""
    import torch

    device = model.get_input_embeddings().weight.device
    if text is None:
        vocabulary = model.get_input_embeddings().num_embeddings
        return torch.randint(0, vocabulary, (count,)).to(device)
    from transformers import AutoTokenizer

    from gossamer.errors import SettingError

    tokenizer = AutoTokenizer.from_pretrained(context.base_folder)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise SettingError("start_text is empty; leave it out to start from random tokens")
    return torch.tensor((ids * (count // len(ids) + 1))[:count], device=device)
