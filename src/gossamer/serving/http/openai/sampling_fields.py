"""Parses the fields that name tokens and texts: what ends an answer, is favoured or forbidden."""

from typing import Any, Never

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.unsupported_fields import shown

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_000
"""The most characters of one stop text; each is looked for with each new token."""
MAX_BAD_WORDS = 64
MAX_NAMED_TOKENS = 1_024
"""The most tokens that `logit_bias` or `stop_token_ids` names."""


def parse_stop(value: Any) -> tuple[str, ...]:
    """Parse one stop text or a list of them; raises `ApiError` 400."""
    return _texts("stop", [value] if isinstance(value, str) else value, MAX_STOPS)


def parse_bad_words(value: Any) -> tuple[str, ...]:
    """Parse a list of texts that are not to be generated; raises `ApiError` 400."""
    return _texts("bad_words", value, MAX_BAD_WORDS)


def parse_stop_token_ids(value: Any) -> tuple[int, ...]:
    """Parse a list of token ids; raises `ApiError` 400."""
    # type() and not isinstance(): JSON's true is no token id.
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        _refuse("stop_token_ids", "'stop_token_ids' must be a list of whole numbers from 0")
    _check_count("stop_token_ids", len(value))
    return tuple(value)


def parse_logit_bias(value: Any) -> dict[int, float]:
    """Parse an object of numbers by token id, which JSON writes as text; raises `ApiError` 400."""
    if not isinstance(value, dict):
        _refuse("logit_bias", "'logit_bias' must be an object such as {\"1734\": -100}")
    _check_count("logit_bias", len(value))
    return dict(_bias(token, amount) for token, amount in value.items())


def _bias(token: str, amount: Any) -> tuple[int, float]:
    if not (token.isascii() and token.isdecimal() and len(token) < 10):
        _refuse("logit_bias", f"'logit_bias' names {shown(token)}, which is no token id")
    if type(amount) not in (int, float) or not -100 <= amount <= 100:
        message = f"'logit_bias' of token {token} is {shown(amount)}: it must lie in -100..100"
        _refuse("logit_bias", message)
    return int(token), float(amount)


def _check_count(field: str, count: int) -> None:
    if count > MAX_NAMED_TOKENS:
        limit = f"at most {MAX_NAMED_TOKENS} are allowed"
        _refuse(field, f"'{field}' names {count} tokens; {limit}")


def _texts(field: str, texts: Any, most: int) -> tuple[str, ...]:
    if isinstance(texts, list) and len(texts) > most:
        _refuse(field, f"'{field}' has {len(texts)} texts; at most {most} are allowed")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        _refuse(field, f"'{field}' must be a non-empty text or a list of such texts")
    if (longest := max(map(len, texts), default=0)) > MAX_STOP_CHARACTERS:
        limit = f"at most {MAX_STOP_CHARACTERS} are allowed"
        _refuse(field, f"'{field}' has a text of {longest} characters; {limit}")
    return tuple(texts)


def _refuse(param: str, message: str) -> Never:
    raise ApiError(400, message, code="invalid_value", param=param)
