"""What counts as a right reply, on replies as small models write them."""

import pytest

from gossamer.training.evaluation.tasks import (
    as_number,
    first_option,
    is_exactly,
    last_number_is,
    names_answer,
    numbers_in,
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The answer is 12.", [12]),
        ("3 + 9 = 12", [3, 9, 12]),
        ("10-7=3", [10, 7, 3]),
        ("(10)-7", [10, 7]),
        ("10 - 7", [10, 7]),
        ("It fell to -7 degrees", [-7]),
        ("a loss of -$5.50, or \u22126", [-5.5, -6]),
        ("1,234,567 people", [1234567]),
        ("$1,234.50.", [1234.5]),
        ("1,2,3", [1, 2, 3]),
        ("12,34", [12, 34]),
        ("about .5 or 0.25.", [0.5, 0.25]),
        ("on 2024-01-05", [2024, 1, 5]),
        ("50% of 5km", [50, 5]),
        ("answer2.", [2]),
        ("no number at all", []),
        ("", []),
    ],
)
def test_numbers_are_found(text, numbers):
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("There will be 3 + 9 = 12 short trees. The answer is 12.", "12", True),
        ("The answer is 118,558", "118558.0", True),
        ("12 trees, so 13", "12", False),
        ("0.3333", "0.333", True),
        ("0.335", "0.333", False),
        ("It is -4.", "-4", True),
        ("It is 4.", "-4", False),
        ("I do not know.", "12", False),
        ("", "0", False),
    ],
)
def test_the_last_number_counts(reply, answer, right):
    assert last_number_is(reply, answer) is right


def test_only_a_whole_text_is_a_number():
    assert as_number(" 1,200.5 ") == 1200.5
    assert as_number("-3") == -3
    for text in ("12 trees", "", "answer2", "1 2"):
        assert as_number(text) is None


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("Paris", "Paris", True),
        ("  Paris.\n", "Paris", True),
        ("New  York", "New York", True),
        ("paris", "Paris", False),
        ("It is Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_exact_answers(reply, answer, right):
    assert is_exactly(reply, answer) is right


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("the correct answer is answer2.", "answer2"),
        ("Answer3 is wrong, answer1 is right", "answer3"),
        ("answer12", None),
        ("myanswer1", None),
        ("answer1/answer2", "answer1"),
        ("none of them", None),
        ("", None),
    ],
)
def test_the_first_option_named_counts(reply, named):
    assert first_option(reply, ["answer1", "answer2", "answer3"]) == named


def test_of_two_options_at_one_place_the_longer_is_meant():
    assert first_option("not enough information", ["not", "not enough"]) == "not enough"
    assert names_answer("True!", "true", ["true", "false"])
    assert not names_answer("untrue", "true", ["true", "false"])
    assert first_option("it is C++.", ["C", "C++"]) == "C++"
