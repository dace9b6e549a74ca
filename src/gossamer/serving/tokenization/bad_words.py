"""The runs of tokens that write a text which is not to be generated."""

from typing import Any


def bad_words(tokenizer: Any, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Encode each of `words` as it stands at the start of a text and behind a blank.

    White space has no second form, which would be the single blank that no request has named.

    Texts can be cut into tokens in other ways than the tokenizer cuts them; these are not found.
    """
    runs: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip()
        for text in (word, f" {bare}") if bare else (word,):
            ids = tuple(tokenizer.encode(text, add_special_tokens=False))
            if ids:
                runs[ids] = None
    return tuple(runs)
