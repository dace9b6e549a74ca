"""Is a reply right? Pure functions of text."""

import re
from collections.abc import Sequence

_TOLERANCE = 1e-3
# A minus counts as a sign unless something that can be subtracted from stands before it: "10-7".
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-\u2212]\$?)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")


def numbers_in(text: str) -> list[float]:
    """All numbers of `text` in order; `1,234.5`, `-3`, `.5` and `-$7` are one number each."""
    return [
        float(found.replace(",", "").replace("$", "").replace("\u2212", "-"))
        for found in _NUMBER.findall(text)
    ]


def as_number(text: str) -> float | None:
    """The number that `text` is, or None if it is not just a number."""
    stripped = text.strip()
    return numbers_in(stripped)[0] if _NUMBER.fullmatch(stripped) else None


def last_number_is(reply: str, answer: str) -> bool:
    """Whether the last number of `reply` equals the number `answer` within 0.001."""
    found, wanted = numbers_in(reply), as_number(answer)
    return bool(found) and wanted is not None and abs(found[-1] - wanted) <= _TOLERANCE


def is_exactly(reply: str, answer: str) -> bool:
    """Whether `reply` is `answer`; white space at the ends or doubled and a last period aside."""
    return _plain(reply) == _plain(answer)


def first_option(reply: str, options: Sequence[str]) -> str | None:
    """The option that `reply` names first, as a word of its own; upper and lower case are alike.

    Of two that begin at the same place, the longer. None if there is none.
    """
    longest_first = sorted(options, key=len, reverse=True)
    either = "|".join(re.escape(option.strip()) for option in longest_first)
    found = re.search(rf"(?<!\w)(?:{either})(?!\w)", reply, re.IGNORECASE)
    if found is None:
        return None
    named = found[0].casefold()
    return next(option for option in options if option.strip().casefold() == named)


def names_answer(reply: str, answer: str, options: Sequence[str]) -> bool:
    """Whether the first of `options` that `reply` names is `answer`."""
    return first_option(reply, options) == answer


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip()
