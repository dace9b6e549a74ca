"""A process of a run other than the first, which has started it and ends it.

`python -m gossamer.training.follower ORDER [--resume]`, ORDER being the run's settings.
"""

import logging
import sys
from pathlib import Path

from gossamer.children import follow_parent, say_ready
from gossamer.errors import GossamerError
from gossamer.training.outputs.listener import Listener
from gossamer.training.processes.launch import end_of_part, last_words, launched_rank
from gossamer.training.settings import RunSettings

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Take part in the run."""
    follow_parent()
    # torch and TRL take seconds to load; the first process waits for what comes after.
    from gossamer.training.loop.callback import RunInterrupted
    from gossamer.training.run import run

    order, *options = arguments
    settings = RunSettings.model_validate_json(Path(order).read_text())
    say_ready()
    try:
        run(settings, resume="--resume" in options, overwrite=False, listener=Listener())
    except RunInterrupted:
        return 0
    except GossamerError as error:
        # The first process tells it, if it does not meet the same.
        last_words(Path(order), launched_rank()).write_text(str(error))
        return 1
    except Exception:
        log.exception("process %d of the run has failed", launched_rank())
        return 1
    end_of_part(Path(order), launched_rank()).touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
