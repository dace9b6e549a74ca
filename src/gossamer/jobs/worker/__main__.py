"""`python -m gossamer.jobs.worker JOBDIR ATTEMPT`, started by the supervisor."""

import os
import sys
from pathlib import Path

from gossamer.jobs.settings import SETTINGS_VARIABLE, JobsSettings
from gossamer.jobs.worker.work import work


def main(folder: str, attempt: str) -> int:
    """Carry out one attempt; returns the exit code."""
    settings = JobsSettings.model_validate_json(os.environ.pop(SETTINGS_VARIABLE))
    return work(settings, Path(folder).name, int(attempt))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
