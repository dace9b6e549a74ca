"""Finds the end of a JSON object or list in a text that is still growing."""

import re

_OUTSIDE = re.compile(r'["{}\[\]<]')
_IN_STRING = re.compile(r'["\\]')


class JsonEnd:
    """Looks for the end of the value that begins at `start`; each character is looked at once."""

    def __init__(self, start: int) -> None:
        self._at = start
        self._depth = 0
        self._is_in_string = False

    def find(self, text: str) -> tuple[int, bool] | None:
        """Return where the value ends and that it is whole, or where and that it is none.

        None: it goes on. `text` is that of the last call with more behind it. Signs that no value
        has outside of its strings, `<` above all, end what is none; the rest is not judged.
        """
        while True:
            pattern = _IN_STRING if self._is_in_string else _OUTSIDE
            found = pattern.search(text, self._at)
            if found is None:
                self._at = len(text)
                return None
            sign = found[0]
            if sign == "\\":
                if found.end() >= len(text):
                    # What is escaped has not come yet.
                    self._at = found.start()
                    return None
                self._at = found.end() + 1
                continue
            self._at = found.end()
            if sign == '"':
                self._is_in_string = not self._is_in_string
            elif sign == "<":
                return found.start(), False
            elif sign in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return found.end(), self._depth == 0
