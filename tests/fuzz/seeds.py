"""Which seeds a test takes: its own, or those of the variable GOSSAMER_FUZZ_SEED.

`GOSSAMER_FUZZ_SEED=7` makes a test run with another seed, `GOSSAMER_FUZZ_SEED=7/123` only the one
case that such a run has failed with; every failure names its case in this form.
"""

import os
from collections.abc import Iterator

VARIABLE = "GOSSAMER_FUZZ_SEED"


def seeds(count: int, default: str = "1") -> Iterator[str]:
    """`count` seeds of cases; one, if the variable names one."""
    given = os.environ.get(VARIABLE, default)
    if "/" in given:
        yield given
    else:
        yield from (f"{given}/{number}" for number in range(count))
