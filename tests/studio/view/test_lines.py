"""The end of a run's lines, which many jobs at once are judged by."""

import json
import random

import pytest

from gossamer.studio.view.lines import RECENT, _end, _parsed, end_of


@pytest.mark.parametrize("seed", range(20))
def test_the_end_of_a_file_is_that_of_all_its_lines(seed):
    chance = random.Random(seed)
    texts = []
    for step in range(chance.choice([0, 3, RECENT, 4 * RECENT])):
        texts.append(json.dumps({"step": step, "loss": 1.0, "seconds": 0.1}))
        if chance.random() < chance.choice([0.0, 0.01, 0.3]):
            texts.append(json.dumps({"step": step, "eval_loss": 2.0}))
        if chance.random() < 0.1:
            texts.append(json.dumps({"step": step, "stage": "a", "stage_steps": 5}))
        if chance.random() < 0.05:
            texts.append(chance.choice(['{"step": 3, "lo', "[]", '{"eval_loss": 1}', ""]))
    assert end_of(texts) == _end(list(_parsed(texts)))
