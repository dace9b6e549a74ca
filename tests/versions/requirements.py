"""What `make test-oldest` and `make test-newest` install, read from pyproject.toml.

`python tests/versions/requirements.py oldest` prints the requirements of the package and of its
tests with the floor of each library that adapters, training and models stand on in place of its
range; `newest` prints all without upper bounds, so that what comes next is seen before it is
allowed.
"""

import re
import sys
import tomllib
from pathlib import Path

STANDS_ON = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
TESTS = ("pytest", "pytest-xdist", "openai")
EXTRAS = ("tune", "qlora")


def requirements(end: str) -> list[str]:
    """Return pip's requirements for an end of the ranges, "oldest" or "newest"."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    wanted += [line for line in extras["dev"] if _name(line) in TESTS]
    pinned = {"oldest": _floor, "newest": _open}[end]
    return sorted({pinned(line) for line in wanted})


def _name(line: str) -> str:
    return re.split(r"[<>=;\[ ]", line, maxsplit=1)[0]


def _floor(line: str) -> str:
    name = _name(line)
    return re.sub(r">=([\w.]+)(,<[\w.]+)?", r"==\1", line) if name in STANDS_ON else line


def _open(line: str) -> str:
    return re.sub(r",<[\w.]+", "", line)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
