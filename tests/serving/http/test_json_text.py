import json
import random

import pytest

from gossamer.serving.http.json_text import json_bytes


def random_value(rng, depth):
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, -3, 10**20, 0.5, -1e-9])
    if kind in (2, 3):
        return "".join(rng.choice('aé"\\\n\u2028😀') for _ in range(rng.randrange(6)))
    count = rng.choice([0, 1, 3, 63, 64, 65, 130])
    if kind in (4, 5):
        return [random_value(rng, depth - 1) for _ in range(count)]
    return {f"{number}é": random_value(rng, depth - 1) for number in range(count)}


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_json_writes(seed):
    value = random_value(random.Random(seed), 3)
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert json_bytes(value) == expected


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"a": [float("nan")]})
