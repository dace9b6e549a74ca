"""The version of the installed package; it is written in `pyproject.toml` alone."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("gossamer")
    except PackageNotFoundError:
        # Run from its source without being installed.
        return "0+source"


VERSION = _installed()
