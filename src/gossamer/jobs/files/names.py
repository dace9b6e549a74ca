"""What an upload may be called, and what it may be for."""

import unicodedata
from pathlib import PurePosixPath

from gossamer.errors import JobError, cut

MAX_NAME = 255
"""Characters of a file's name."""

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""Endings of files that hold rows; they tell how a file is read."""

PURPOSES = ("fine-tune", "evals", "user_data")
"""What uploads may be for; rows are looked for in the first two."""

RESULTS = "fine-tune-results"
"""The purpose of files that jobs leave."""


def plain_name(name: str) -> str:
    """Make a label of a client's file name: its last part, composed, without control characters.

    It names nothing on this machine. What is left of an unusable name may be empty.
    """
    composed = unicodedata.normalize("NFC", name.replace("\\", "/"))
    kept = "".join(sign for sign in composed if sign.isprintable()).rstrip("/")
    last = kept.rpartition("/")[2].strip()
    ending = PurePosixPath(last).suffix
    if len(last) > MAX_NAME and len(ending) < MAX_NAME:
        last = last[: MAX_NAME - len(ending)] + ending
    return "" if last in (".", "..") else last[:MAX_NAME]


def check_purpose(purpose: str | None) -> str:
    """Return a purpose that uploads may have; raises `JobError`."""
    known = f"give one of {', '.join(PURPOSES)}"
    if not purpose:
        raise JobError(
            f"the field 'purpose' is missing; {known}", code="invalid_value", param="purpose"
        )
    if purpose not in PURPOSES:
        raise JobError(
            f"files for '{cut(purpose)}' are not taken; {known}",
            code="unsupported_purpose",
            param="purpose",
        )
    return purpose


def check_name(name: str, purpose: str) -> str:
    """Return the label of a file called `name`; raises `JobError` if it cannot be read."""
    label = plain_name(name)
    if not label:
        raise JobError(
            "the file has no name; send the part 'file' with a filename",
            code="invalid_file",
            param="file",
        )
    ending = PurePosixPath(label).suffix.lower()
    if has_rows(purpose) and ending not in ENDINGS:
        what = f"files ending in '{cut(ending)}'" if ending else "files without an ending"
        raise JobError(
            f"'{cut(label)}': rows cannot be read from {what}; send one of {', '.join(ENDINGS)}",
            code="invalid_file",
            param="file",
        )
    return label


def has_rows(purpose: str) -> bool:
    """Tell whether a file for `purpose` must hold rows to train or evaluate on."""
    return purpose in PURPOSES[:2]
