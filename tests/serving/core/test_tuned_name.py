"""Names of fine-tuned models: their fields, their owner, and weights behind them."""

import pytest

from gossamer.errors import RequestError
from gossamer.serving.core.adapter import adapters_in, blend_name, parse_blend
from gossamer.serving.core.tuned_name import is_tuned, owner_of, split_weight

PIRATE = "ft:smollm2-135m:default:pirate:p4lURel0"
NAMELESS = "ft:tiny:alice::abcdefgh"
STEP = f"{PIRATE}:ckpt-step-50"


@pytest.mark.parametrize("name", [PIRATE, NAMELESS, STEP, "ft:a b.c:t@x.y-z_1:a.b-c_d:A1234567"])
def test_a_whole_name_is_one_model_without_weights(name):
    assert is_tuned(name)
    assert parse_blend(name) is None
    assert adapters_in(name) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "pirate",
        "ft:tiny:default:pirate",
        "ft:tiny:default:pirate:7p4lURel",  # an id that could be read as a number
        "ft:tiny:default:pirate:p4lURel",
        "ft:tiny:default:pirate:p4lURel00",
        "ft::default:pirate:p4lURel0",
        "ft:tiny::pirate:p4lURel0",
        "ft:tiny:a/b:pirate:p4lURel0",
        "ft:tiny:default:pi rate:p4lURel0",
        f"ft:tiny:default:{'x' * 65}:p4lURel0",
        f"{PIRATE}:ckpt-step-",
        f"{PIRATE}:0.5",
        f"{PIRATE}\n",
    ],
)
def test_what_lacks_a_field_is_no_tuned_name_and_has_no_owner(name):
    assert not is_tuned(name)
    assert owner_of(name) is None


def test_the_third_field_is_the_owner():
    assert owner_of(PIRATE) == owner_of(STEP) == "default"
    assert owner_of(NAMELESS) == "alice"


@pytest.mark.parametrize("name", [PIRATE, NAMELESS, STEP])
def test_only_what_follows_the_fields_is_a_weight(name):
    assert parse_blend(f"{name}:0.7+pirate:0.3") == [(name, 0.7), ("pirate", 0.3)]
    assert parse_blend(f"pirate + {name}") == [("pirate", 1.0), (name, 1.0)]
    assert parse_blend(f" {name} :-2") == [(name, -2.0)]
    weights = {name: 0.25, "poet": 1.5}
    assert dict(parse_blend(blend_name(weights))) == weights


def test_an_adapter_called_ft_may_have_a_weight():
    assert parse_blend("ft:0.5+a:0.5") == [("ft", 0.5), ("a", 0.5)]
    assert split_weight("ft:0.5") == ("ft", "0.5")


@pytest.mark.parametrize("name", ["ft:gpt-4o-mini:openai::7p4lURel", "ft:gpt-4o:x", "ft:a:b:c"])
def test_a_foreign_or_unfinished_name_is_one_unknown_name(name):
    assert parse_blend(name) is None


@pytest.mark.parametrize("weight", ["lots", "", "0.5:0.5", "nan"])
def test_a_wrong_weight_behind_a_name_is_refused(weight):
    with pytest.raises(RequestError, match="is not a weight"):
        parse_blend(f"{PIRATE}:{weight}")
