"""Fields of a config that are not understood are refused in one line of bounded length."""

import pytest

from gossamer.adapters.fields import COMMON, refuse_fields
from gossamer.errors import UnsupportedAdapterError


def test_a_long_name_and_a_long_value_are_cut():
    raw = {"a" * 5000: ["q_proj"] * 5000}
    with pytest.raises(UnsupportedAdapterError, match="unknown field aaa") as refusal:
        refuse_fields("hostile", raw, {}, COMMON)
    assert len(str(refusal.value)) < 500
    assert str(refusal.value).endswith("remove the field if it does not")


@pytest.mark.parametrize("value", [None, False, 0, 3.5, "text", [], {}])
def test_numbers_names_and_what_is_off_are_idle(value):
    refuse_fields("mine", {"novelty": value}, {}, COMMON)
