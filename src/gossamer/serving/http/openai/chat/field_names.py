"""Lets errors about a chat name the fields of the body that the chat was made of."""

import re
from collections.abc import Mapping

from gossamer.serving.http.errors import ApiError

_REST = r"(?:\[\d+\]|\.\w+)"
_INDEX = re.compile(r"\[\d+\]")
_LAST_STEP = re.compile(r"(?:\[\d+\]|\.\w+)$")


class FieldNames:
    """The names that a chat's fields have in another interface, for one call."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names` leads from paths of a chat to those of the body, such as `messages[1].content` to
        `input[0].output`; what is below a path follows it. `[*]` stands for each index."""
        self._names = names
        heads = {re.split(r"[.\[]", path, maxsplit=1)[0] for path in names}
        anywhere = "|".join(map(re.escape, sorted(heads, key=len, reverse=True)))
        # A field of one plain word, such as `stop`, is a word of sentences too: there it counts
        # only in quotes or with what is below it.
        marked = "|".join(map(re.escape, sorted(filter(_is_no_word, heads), reverse=True))) or "$^"
        self._in_text = re.compile(
            rf"(?<![\w.'])(?:(?:{anywhere}){_REST}+|(?:{marked})(?![\w.\[]))"
            rf"|(?<=')(?:{anywhere}){_REST}*(?=')"
        )

    def renamed(self, error: ApiError) -> ApiError:
        """Return `error` about the body that the client sent."""
        if not self._names:
            return error
        message = self._in_text.sub(lambda found: self._path(found[0]), error.message)
        param = None if error.param is None else self._path(error.param)
        return ApiError(error.status, message, code=error.code, param=param, headers=error.headers)

    def _path(self, path: str) -> str:
        rest = ""
        while True:
            starred = _INDEX.sub("[*]", path, count=1)
            if path in self._names:
                return self._names[path] + rest
            if starred in self._names:
                [index] = _INDEX.findall(path)[:1] or [""]
                return self._names[starred].replace("[*]", index) + rest
            step = _LAST_STEP.search(path)
            if step is None:
                return path + rest
            path, rest = path[: step.start()], step[0] + rest


def _is_no_word(name: str) -> bool:
    return "_" in name


THE_SAME = FieldNames({})
"""For the bodies of chats and completions themselves."""
