"""What an evaluation has done so far, a line a batch."""

import json
from pathlib import Path
from typing import Any

from gossamer.durable import write_whole


class ProgressFile:
    """Batches in the order in which they were done; without a path they are only remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self.seconds = 0.0
        """Time that the batches took."""
        if path is not None and path.exists():
            self._read(path)

    def known(self, what: str) -> list[Any]:
        """The values of all batches of the kind `what` that the file had when it was opened."""
        return list(self._known.get(what, []))

    def add(self, what: str, values: list[Any], seconds: float) -> None:
        """Keep a batch."""
        self.seconds += seconds
        if self._path is not None:
            line = {"what": what, "values": values, "seconds": round(seconds, 4)}
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    def _read(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = []
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                break
            whole.append(text if text.endswith("\n") else text + "\n")
            self._known.setdefault(line["what"], []).extend(line["values"])
            self.seconds += line["seconds"]
        if len(whole) < len(lines) or (lines and not lines[-1].endswith("\n")):
            # The last line was cut off by a kill; what follows must not be glued to it.
            write_whole(path, "".join(whole))
