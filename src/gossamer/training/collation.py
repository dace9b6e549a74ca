"""Makes batches of examples: padded, or packed rows beside each other."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from gossamer.methods.common.ranks import rank
from gossamer.training.data import Example, PreferencePair
from gossamer.training.data.encode import NO_LOSS
from gossamer.training.plan import RowOrder, RunPlan
from gossamer.training.settings import RunSettings


def features(row: Example | PreferencePair) -> dict[str, Any]:
    """What a collator takes of `row`."""
    if isinstance(row, PreferencePair):
        return _pair_features(row)
    found: dict[str, Any] = {"input_ids": row.input_ids, "labels": row.labels}
    return found | ({"seq_lengths": row.lengths} if row.lengths else {})


def _pair_features(pair: PreferencePair) -> dict[str, Any]:
    found: dict[str, Any] = {
        "chosen_ids": pair.chosen.input_ids,
        "chosen_labels": pair.chosen.labels,
        "rejected_ids": pair.rejected.input_ids,
        "rejected_labels": pair.rejected.labels,
    }
    # A pair that the run does not see has none.
    chosen, rejected = pair.reference or (math.nan, math.nan)
    return found | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


def collator(tokenizer: Any) -> Any:
    """A collator that makes a batch of examples: padded on the right, the padding masked.

    Of packed rows the batch has no `attention_mask` but `position_ids`, which begin again with each
    row, by which transformers keeps rows apart in attention. Each token of padding is a row of its
    own there.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    pad_token = _pad_token(tokenizer)
    padded = DataCollatorForLanguageModeling(pad_token_id=pad_token)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        if "chosen_ids" in examples[0]:
            return _preference_batch(pad_token, examples)
        batch = dict(padded([{n: e[n] for n in ("input_ids", "labels")} for e in examples]))
        if "seq_lengths" in examples[0]:
            del batch["attention_mask"]
            lengths = [example["seq_lengths"] for example in examples]
            batch["position_ids"] = _positions(lengths, batch["input_ids"].shape[1])
        return batch

    return collate


def _positions(lengths: list[Sequence[int]], width: int) -> torch.Tensor:
    """[rows, width]: places in packed rows of these lengths; 0 for padding."""
    positions = torch.zeros(len(lengths), width, dtype=torch.long)
    for index, row in enumerate(lengths):
        places = torch.cat([torch.arange(length) for length in row])
        positions[index, : len(places)] = places
    return positions


def _preference_batch(pad_token: int, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch in the form of TRL's `DataCollatorForPreference`: the chosen answers' rows, then the
    rejected ones', padded on the right; `completion_mask` is 1 at what the labels say is learnt."""
    sides = [pair[f"{side}_ids"] for side in ("chosen", "rejected") for pair in pairs]
    labels = [pair[f"{side}_labels"] for side in ("chosen", "rejected") for pair in pairs]
    ids = torch.full((len(sides), max(map(len, sides))), pad_token)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for index, (row, wanted) in enumerate(zip(sides, labels, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        attention[index, : len(row)] = 1
        completion[index, : len(row)] = (torch.tensor(wanted) != NO_LOSS).long()
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "completion_mask": completion,
        "ref_chosen_logps": torch.tensor([pair["ref_chosen_logps"] for pair in pairs]),
        "ref_rejected_logps": torch.tensor([pair["ref_rejected_logps"] for pair in pairs]),
    }


def token_mask(batch: Any) -> torch.Tensor:
    """Where `batch` holds tokens and no padding: [rows, tokens] of bool."""
    if "attention_mask" in batch:
        mask: torch.Tensor = batch["attention_mask"].bool()
        return mask
    # A packed row has two tokens at least, so a single one is padding.
    positions: torch.Tensor = batch["position_ids"]
    begins = positions.roll(-1, dims=1) == 1
    begins[:, -1] = False
    return (positions > 0) | begins


class ProbeBatches:
    """Gives a run's `MethodContext.probe_batches`: what its trainer will see first."""

    def __init__(
        self,
        rows: Sequence[Any],
        tokenizer: Any,
        settings: RunSettings,
        plan: RunPlan,
        *,
        device: str,
    ) -> None:
        self._rows = rows
        self._tokenizer = tokenizer
        self._settings = settings
        self._plan = plan
        self._device = device

    def __call__(self, count: int) -> Iterator[dict[str, Any]]:
        """This process's batches of the first `count` forward passes, on the device; no random
        state is touched.

        Of pairs, the chosen answers: what a method looks at is how to learn them.
        """
        collate = collator(self._tokenizer)
        size, processes = self._settings.batch_size, self._settings.processes
        order = iter(RowOrder(self._plan, self._settings.seed))
        for _ in range(count):
            together = [self._rows[n].sides[0] for n in islice(order, size * processes)]
            # As Accelerate deals them to the processes.
            rows = together[size * rank() :][:size]
            if not rows:
                return
            batch = collate([features(row) for row in rows])
            yield {name: tensor.to(self._device) for name, tensor in batch.items()}


def _pad_token(tokenizer: Any) -> int:
    # Padding is masked, so any token will do.
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if token is not None:
            return int(token)
    raise AssertionError
