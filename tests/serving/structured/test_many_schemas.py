"""Many schemas at once: each answer that is finished is valid, as another judge says."""

import json
import random
from collections import Counter

import jsonschema
import pytest
from engine_case import ask, check_idle, start
from random_schemas import random_schema

from gossamer.serving.core.messages import StructuredOutputs


def answers(model, schemas, *, at_once=32):
    """The answers of a random model to all schemas, each with its schema."""
    engine = start(model, num_blocks=1500, max_running=at_once)
    open_requests = [
        ask(
            engine,
            structured_outputs=StructuredOutputs(json=schema),
            temperature=1.0,
            seed=number,
            max_tokens=400,
        )
        for number, schema in enumerate(schemas)
    ]
    found = [
        (schema, one, one.wait(600)) for schema, one in zip(schemas, open_requests, strict=True)
    ]
    check_idle(engine)
    engine.shutdown()
    return found


def judge(found):
    """Count the ends; raise for a finished answer that its schema does not admit."""
    ends = Counter()
    for schema, one, end in found:
        ends[end.finish_reason] += 1
        if end.finish_reason == "stop":
            # Of formats, those that the judge knows here; of the others it says nothing.
            judge = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            )
            judge.validate(json.loads(one.text))
    return ends


def schemas(count):
    return [random_schema(random.Random(number)) for number in range(count)]


def test_finished_answers_are_valid(tiny_model):
    ends = judge(answers(tiny_model, schemas(30)))
    assert ends["stop"] > 20
    assert ends.total() == 30


@pytest.mark.slow
def test_a_thousand_finished_answers_are_valid(tiny_model):
    ends = judge(answers(tiny_model, schemas(1000)))
    assert ends["stop"] > 800
    assert ends.total() == 1000
