"""Keep other libraries' progress bars, notices and warnings off the screen during a run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from gossamer.basemodel.quiet import quiet_transformers

_LOGGERS = ("trl", "peft", "accelerate", "datasets", "bitsandbytes", "torch")
# Warnings name the file they come from; ours come from none of these.
_MODULES = r"(trl|peft|transformers|accelerate|datasets|bitsandbytes|torch|huggingface_hub)(\..*)?"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show only errors of the training libraries inside. Warnings of Gossamer pass."""
    from datasets.utils import disable_progress_bars, enable_progress_bars

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_MODULES)
            yield
    finally:
        enable_progress_bars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
