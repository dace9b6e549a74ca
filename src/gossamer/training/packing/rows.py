"""Puts short rows together, so that less of a batch is padding."""

from dataclasses import replace

from gossamer.training.data import EncodedData, Example


def pack(data: EncodedData, max_length: int) -> EncodedData:
    """Pack the training rows of `data` into as few of at most `max_length` tokens as TRL's best fit
    of the longest first finds; no row is divided. Held-out rows stay as they are."""
    from datasets import Dataset
    from trl import pack_dataset

    whole = Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in data.train],
            "labels": [row.labels for row in data.train],
        }
    )
    packed = [
        Example(row["input_ids"], row["labels"], tuple(row["seq_lengths"]))
        for row in pack_dataset(whole, max_length, strategy="bfd")
    ]
    return replace(data, train=packed, report=replace(data.report, packed=len(packed)))
