"""Identifiers as OpenAI's clients know them, and the names of tuned models."""

import re
import secrets
import string
from typing import Literal

from gossamer.errors import RequestError, cut

Prefix = Literal["file-", "upload_", "part_", "ftjob-", "ftckpt_", "cp_"]
_LETTERS = string.ascii_letters
_BASE62 = string.digits + _LETTERS
_LENGTH = 24
_SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MODEL_PREFIX = "ft:"
_MAX_BASE = 80
"""Characters of the base model in a name, which is also the name of a file."""


def new_id(prefix: Prefix) -> str:
    """Make an identifier: the prefix and 24 random characters, too many to guess."""
    return prefix + "".join(secrets.choice(_BASE62) for _ in range(_LENGTH))


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `text` has the form of an identifier with that prefix, so that it can name a file."""
    return re.fullmatch(f"{re.escape(prefix)}[A-Za-z0-9]{{{_LENGTH}}}", text) is not None


def model_name(base: str, tenant: str, suffix: str | None) -> str:
    """Name a tuned model `ft:BASE:TENANT:SUFFIX:ID8`; without a suffix the field stays empty.

    `base` is the served name, of which the last part of the path counts. The eight characters
    begin with a letter, so that none of them reads as a weight of a blend.
    """
    last = _UNSAFE.sub("-", base.rstrip("/").rsplit("/", 1)[-1])[:_MAX_BASE] or "model"
    tail = secrets.choice(_LETTERS) + "".join(secrets.choice(_BASE62) for _ in range(7))
    return f"{MODEL_PREFIX}{last}:{tenant}:{suffix or ''}:{tail}"


def check_suffix(suffix: str) -> str:
    """Return `suffix` if it may stand in a model's name; raises `RequestError`."""
    if not _SUFFIX.fullmatch(suffix):
        raise RequestError(
            f"suffix '{cut(suffix)}' must be 1 to 64 letters, digits, dots, underscores or hyphens",
            param="suffix",
        )
    return suffix


def check_alias(alias: str) -> str:
    """Return `alias` if a person may call a model so; raises `RequestError`.

    It names a file and stands in addresses and mixtures, so it holds none of their signs.
    """
    if not _ALIAS.fullmatch(alias):
        raise RequestError(
            f"'{cut(alias)}' cannot be a model's name; use 1 to 64 letters, digits, dots, "
            "underscores or hyphens, and begin with a letter or digit",
            param="alias",
        )
    return alias
