"""Every error that Gossamer raises on purpose.

    GossamerError
    ├── UsageError                 an argument or setting is wrong
    │   ├── UnknownNameError       a name that does not exist; suggests the nearest
    │   ├── SettingError           a setting with an impossible value
    │   └── MissingExtraError      an optional dependency is not installed
    ├── StorageError               a disk that is full, read-only, or not ours to write to
    ├── DataError                  training data that cannot be used
    ├── BaseModelError
    │   ├── ModelNotFoundError     no such alias, folder or hub id
    │   ├── UnsupportedModelError  an architecture, tokenizer or template we cannot use
    │   ├── CorruptModelError      files that are damaged or incomplete
    │   └── DownloadError          fetching failed
    ├── AdapterError
    │   ├── AdapterNotFoundError   no such adapter folder
    │   ├── AdapterFormatError     files that are damaged, incomplete or unsafe
    │   ├── AdapterReadError       files that cannot be read now, through no fault of theirs
    │   ├── UnsupportedAdapterError  a kind of adapter that cannot be used here
    │   └── BaseMismatchError      an adapter for another base model
    ├── TrainingError              a run that cannot start or go on
    │   └── CheckpointError        a checkpoint that cannot be used
    ├── JobError                   a file, job or tuned model that cannot be used so; has a code
    │   └── UnknownIdError         an identifier that the caller has nothing of
    └── ServingError
        ├── RequestError           the request itself is wrong
        ├── UnknownModelError      neither the base model nor an adapter has that name
        ├── CapacityError          does not fit in memory, even alone
        ├── OverloadedError        too many requests are waiting; carries a retry hint
        │   └── QuotaError         the tenant has used up what it may use for now
        ├── AdapterReplacedError   a begun request has lost its version of an adapter
        ├── EngineStoppedError     the engine is shutting down or has failed
        └── RankLostError          a process of a tensor-parallel server has gone

The message is one clear line: what is wrong, with the value, and the remedy. Commands print it
and exit with `exit_code`; the server sends it in OpenAI's error shape with a status that
`serving/http` maps from the class.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GossamerError(Exception):
    """Root of all errors that are meant for the user."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(GossamerError):
    """An argument or setting is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """Build the error for `name`, a `what` that is not among `known`."""
        return cls(unknown_name_message(what, name, known))


class SettingError(UsageError):
    """A setting with an impossible value."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, what: str, needs: str, extra: str) -> "MissingExtraError":
        """Build the error for `what`, which needs a package of the group `extra`."""
        return cls(f"{what} needs {needs}; in the clone of Gossamer: pip install -e '.[{extra}]'")


class StorageError(GossamerError):
    """A disk that is full, broken, read-only, or not ours to write to."""


class DataError(GossamerError):
    """Training data that cannot be used."""


class BaseModelError(GossamerError):
    """Something is wrong with the base model."""


class ModelNotFoundError(BaseModelError):
    """A base model whose alias, folder or hub id does not exist."""


class UnsupportedModelError(BaseModelError):
    """An architecture, tokenizer or chat template that cannot be used."""


class CorruptModelError(BaseModelError):
    """Model files that are damaged or incomplete."""


class DownloadError(BaseModelError):
    """A base model that could not be fetched."""


class AdapterError(GossamerError):
    """Something is wrong with an adapter."""


class AdapterNotFoundError(AdapterError):
    """An adapter folder that does not exist."""


class AdapterFormatError(AdapterError):
    """Adapter files that are damaged, incomplete or unsafe."""


class AdapterReadError(AdapterError):
    """Files that cannot be read at the moment, through no fault of theirs: too many open files, no
    memory, a disk that fails or hangs. Try again after `retry_after` seconds."""

    retry_after = 5.0


class UnsupportedAdapterError(AdapterError):
    """A kind of adapter that cannot be used here; never approximated."""


class BaseMismatchError(AdapterError):
    """An adapter that was trained for another base model."""


class TrainingError(GossamerError):
    """A run that cannot start or cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint that cannot be used."""


class JobError(GossamerError):
    """A file, job or tuned model that cannot be used as was asked; `code` says why in one word."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class UnknownIdError(JobError):
    """An identifier of a file, job or model that the caller has nothing of."""


class ServingError(GossamerError):
    """Something went wrong while serving."""


class RequestError(ServingError):
    """The request itself is wrong; `param` names the offending field where there is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModelError(ServingError):
    """Neither the base model nor an adapter has the requested name."""


class CapacityError(ServingError):
    """A request or adapter that does not fit in the block pool, even with nothing else in it."""


class OverloadedError(ServingError):
    """Too many requests are waiting; try again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaError(OverloadedError):
    """The tenant has used up what it may use for now."""


class AdapterReplacedError(ServingError):
    """The adapter was replaced while a request, begun with the former version, waited."""


class EngineStoppedError(ServingError):
    """The engine is shutting down or has failed."""


class RankLostError(ServingError):
    """A process of a tensor-parallel server has gone or does not answer; the server has to be
    started again."""


MAX_CUT = 200
"""The most characters of somebody else's text that a message repeats."""

MAX_MESSAGE = 2000
"""The most characters of a message, whatever it repeats."""

MAX_LISTED = 20
"""The most known names that a message lists."""

MAX_COMPARED = 500
"""Known names among which the nearest to an unknown one is looked for: comparing costs more than
all else that is done with a name."""


def cut(text: str, length: int = MAX_CUT) -> str:
    """Cut `text` to a length fit for a message: what users send may be of any size."""
    return text if len(text) <= length else text[: length - 3] + "..."


def one_line(text: str, length: int = MAX_MESSAGE) -> str:
    """Make `text` safe for a terminal and a log: the names and values in it are others' work.

    Line ends and other characters that print nothing become escapes; of a text that is longer than
    `length` the middle is left out, since the remedy stands at the end.
    """
    text = _without_middle(text, length)
    if text.isprintable():
        return text
    return _without_middle("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), length)


def _without_middle(text: str, length: int) -> str:
    end = length // 4
    return text if len(text) <= length else f"{text[: length - end - 5]} ... {text[-end:]}"


def unknown_name_message(what: str, name: str, known: Iterable[str]) -> str:
    """Say in one line that `name` does not exist, and name the nearest (or all) known names.

    However long `name` is and however many there are: what it costs is bounded.
    """
    names = sorted(known)
    close = [] if len(name) > MAX_CUT else get_close_matches(name, _alike(name, names), cutoff=0.5)
    name = cut(name)
    if close:
        return f"unknown {what} '{name}'; did you mean {' or '.join(repr(c) for c in close)}?"
    listed = cut(", ".join(names[:MAX_LISTED]), 1000) + (", ..." if len(names) > MAX_LISTED else "")
    return f"unknown {what} '{name}'; known: {listed or 'none'}"


def _alike(name: str, names: list[str]) -> list[str]:
    """Pick the names that begin like `name`, as the nearest one mostly does."""
    if len(names) > MAX_COMPARED:
        names = [each for each in names if each[:2] == name[:2]] or names
    return names[:MAX_COMPARED]
