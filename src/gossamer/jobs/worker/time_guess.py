"""How long a run may take on processors where none of its kind has been measured: a range.

A training step of LoRA computes each weight of the model four times per token: multiply and add on
the way forward, and again for the gradient of what went in. This process multiplies two matrices
to see how fast that can go, and a step takes some 1.5 to 8 times as long as that pace would: with
SmolLM2-135M on two cores 1.9 times in float32 and 5.0 in bfloat16 (4 rows of 126 tokens), and 7 in
bfloat16 with rows of 50 tokens. How much more or less another method takes than LoRA is in the
catalogue of methods.
"""

import json
import time
from functools import cache
from pathlib import Path

_OPERATIONS = 4
"""Per weight and token."""
_SOONEST, _LATEST = 1.5, 8.0
_ROWS, _WIDTH = 512, 1024
_MEASURE_SECONDS = 0.2
_FEWEST = 3
_CATALOGUE = Path(__file__).parents[1] / "catalogue.json"


def seconds_range(method: str, *, tokens: float, weights: int, dtype: str) -> tuple[float, float]:
    """The seconds that a run may take on `tokens` tokens, a model of `weights` weights and the
    processors' threads: at least, and at most.

    `dtype` is "float32" or "bfloat16". The first call for each takes a fraction of a second.
    """
    pace = _operations_per_second(dtype)
    seconds = _OPERATIONS * tokens * weights * _relative_cost(method) / pace
    return _three_digits(_SOONEST * seconds), _three_digits(_LATEST * seconds)


def _three_digits(number: float) -> float:
    return float(f"{number:.3g}")


@cache
def _operations_per_second(dtype: str) -> float:
    """How fast matrices of `dtype` are multiplied here."""
    import torch

    rows = torch.ones(_ROWS, _WIDTH, dtype=getattr(torch, dtype))
    weight = torch.ones(_WIDTH, _WIDTH, dtype=rows.dtype)
    taken: list[float] = []
    # The first product is slower than all that follow.
    while len(taken) <= _FEWEST or sum(taken) < _MEASURE_SECONDS:
        began = time.perf_counter()
        rows @ weight
        taken.append(time.perf_counter() - began)
    middle = sorted(taken[1:])[(len(taken) - 1) // 2]
    return 2 * _ROWS * _WIDTH * _WIDTH / middle


def _relative_cost(method: str) -> float:
    """The time of a step beside LoRA's, as measured for the documentation; 1 if it was not."""
    return _costs().get(method, 1.0)


@cache
def _costs() -> dict[str, float]:
    methods = json.loads(_CATALOGUE.read_text())["methods"]
    return {one["name"]: one["cost"]["step"] for one in methods if one["cost"]}
