"""Where fetched models live on this machine."""

import os
import sys
from pathlib import Path


def cache_home() -> Path:
    """`$GOSSAMER_HOME`, else the folder `gossamer` in the user's cache folder."""
    chosen = os.environ.get("GOSSAMER_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return _user_cache() / "gossamer"


def models_folder() -> Path:
    """The folder that holds one sub-folder per fetched model."""
    return cache_home() / "models"


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    chosen = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path must be ignored.
    if chosen and Path(chosen).is_absolute():
        return Path(chosen)
    return Path.home() / ".cache"
