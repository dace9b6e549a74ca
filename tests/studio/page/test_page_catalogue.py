"""The catalogue tells of each method what the method itself tells."""

import json

import pytest
from house import PACKAGE

from gossamer.methods import registry, settings_type
from gossamer.training.settings import RunSettings

CATALOGUE = json.loads((PACKAGE / "jobs" / "catalogue.json").read_text())
METHODS = {method["name"]: method for method in CATALOGUE["methods"]}


def test_every_method_and_every_setting_of_a_run_is_there():
    assert list(METHODS) == list(registry.names())
    given = {setting["name"] for setting in CATALOGUE["training"]}
    elsewhere = {"model", "data", "eval_data", "output", "method", "method_settings", "device"}
    elsewhere |= {"seed", "processes", "start_from", "sparse_compute", "report_to"}
    assert given == RunSettings.model_fields.keys() - elsewhere


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings_have_their_sentences_and_defaults(name):
    fields = settings_type(name).model_fields
    found = {setting["name"]: setting for setting in METHODS[name]["settings"]}
    assert found.keys() == fields.keys()
    for key, setting in found.items():
        assert setting["sentence"]
        assert setting["type"] in ("integer", "number", "boolean", "string", "choice", "array",
                                   "object", "any")  # fmt: skip
        if not fields[key].is_required():
            default = fields[key].get_default(call_default_factory=True, validated_data={})
            assert setting["default"] == json.loads(json.dumps(default))


def test_bounds_choices_and_costs_are_the_methods_own():
    rank, dropout = METHODS["lora"]["settings"][0], METHODS["lora"]["settings"][2]
    assert rank["type"] == "integer"
    assert rank["minimum"] == 1
    assert (dropout["minimum"], dropout["below"]) == (0, 1)
    start = next(s for s in METHODS["loreft"]["settings"] if s["name"] == "start")
    assert start["choices"] == ["random", "identity"]
    assert METHODS["lora"]["cost"]["step"] == 1.0
    assert METHODS["lora"]["served"]
    assert not METHODS["full"]["served"]
