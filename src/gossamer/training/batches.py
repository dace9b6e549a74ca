"""From rows to tensors: how a batch is put together, and the first ones of a run."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from gossamer.training.data import Example
from gossamer.training.plan import Plan, RowOrder
from gossamer.training.settings import RunSettings


def collator(tokenizer: Any) -> Any:
    """Makes of examples a batch: padded on the right, the padding masked."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=_pad_token(tokenizer))


class ProbeBatches:
    """`MethodContext.probe_batches` of a run: what its trainer will see first."""

    def __init__(
        self,
        rows: list[Example],
        tokenizer: Any,
        settings: RunSettings,
        plan: Plan,
        *,
        device: str,
    ) -> None:
        self._rows = rows
        self._tokenizer = tokenizer
        self._settings = settings
        self._plan = plan
        self._device = device

    def __call__(self, count: int) -> Iterator[dict[str, Any]]:
        """The first `count` forward passes' batches, on the device; no random state is touched."""
        collate = collator(self._tokenizer)
        order = iter(RowOrder(self._plan, self._settings.seed))
        for _ in range(count):
            rows = [self._rows[n] for n in islice(order, self._settings.batch_size)]
            if not rows:
                return
            batch = collate([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])
            yield {name: tensor.to(self._device) for name, tensor in batch.items()}


def _pad_token(tokenizer: Any) -> int:
    # Padding is masked, so any token will do.
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if token is not None:
            return int(token)
    raise AssertionError
