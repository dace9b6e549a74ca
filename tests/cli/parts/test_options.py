import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from gossamer.cli.parts.options import Options, Style
from gossamer.errors import SettingError
from gossamer.settings import Settings


class Oven(Settings):
    """An oven."""

    brand: str
    """Who made it."""
    heat_limit: float = Field(230.0, gt=0)
    """Degrees at most; 100 % of what is safe."""
    racks: int = 2
    """Racks inside."""
    manual: Path | None = None
    """Where the manual is."""
    fan: bool = True
    """Whether the fan runs."""
    mode: Literal["top", "bottom"] = "top"
    """Which side is hot."""
    trays: tuple[str, ...] = ()
    """A tray (repeatable)."""


class Fridge(Settings):
    """A fridge with a field of the same name."""

    racks: int = 5
    """Racks inside."""


OVEN = Options(
    Oven,
    title="oven",
    names={"trays": "tray", "heat_limit": "heat"},
    metavars={"heat_limit": "DEGREES"},
)


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="kitchen")
    OVEN.add_to(parser)
    return parser, parser.parse_args(arguments)


def test_only_given_options_override_defaults():
    _, args = parse("--brand", "x", "--heat", "99.5")
    assert OVEN.given(args) == {"brand": "x", "heat_limit": 99.5}
    assert OVEN.read(args) == Oven(brand="x", heat_limit=99.5)


def test_every_kind_of_field():
    _, args = parse(
        *("--brand", "x", "--racks", "3", "--manual", "a/b", "--no-fan", "--mode", "bottom"),
        *("--tray", "one", "--tray", "two"),
    )
    oven = OVEN.read(args)
    assert (oven.racks, oven.manual, oven.fan) == (3, Path("a/b"), False)
    assert (oven.mode, oven.trays) == ("bottom", ("one", "two"))


def test_command_line_wins_over_other_sources():
    _, args = parse("--brand", "x")
    assert OVEN.read(args, racks=7, brand="y") == Oven(brand="x", racks=7)


def test_help_has_sentence_default_and_placeholder():
    text = " ".join(parse("--brand", "x")[0].format_help().split())
    assert "--heat DEGREES Degrees at most; 100 % of what is safe. [default: 230]" in text
    assert "Whether the fan runs. [default: on]" in text
    assert "--manual PATH Where the manual is. --fan" in text
    assert "{top,bottom}" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--brand"),
        (("--brand", "x", "--racks", "many"), "--racks"),
        (("--brand", "x", "--mode", "side"), "--mode"),
        (("--brand", "x", "--tempo", "3"), "--tempo"),
    ],
)
def test_argparse_names_the_option(arguments, part, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert part in capsys.readouterr().err


def test_impossible_value_is_a_setting_error():
    _, args = parse("--brand", "x", "--heat", "-3")
    with pytest.raises(SettingError, match=r"^--heat = -3\.0.*above 0"):
        OVEN.read(args)


def test_two_settings_may_share_a_field_name():
    parser = argparse.ArgumentParser()
    fridge = Options(Fridge, title="fridge", names={"racks": "fridge-racks"})
    OVEN.add_to(parser)
    fridge.add_to(parser)
    args = parser.parse_args(["--brand", "x", "--fridge-racks", "9"])
    assert OVEN.read(args).racks == 2
    assert fridge.read(args).racks == 9


class Menu(Settings):
    """What is cooked."""

    guests: list[Annotated[int, Field(ge=1)]] = Field(default=[2])
    """How many eat at each table."""
    cook: str
    """Who cooks."""
    heat: Literal["low", "high"] = "low"
    """How hot it gets."""
    spicy: bool = False
    """Whether it burns."""
    dishes: tuple[str, ...] = ()
    """What there is."""


def parse_menu(style, *arguments, **more):
    menu = Options(Menu, style=style, **more)
    parser = argparse.ArgumentParser(prog="menu")
    menu.add_to(parser)
    return menu, parser, parser.parse_args(arguments)


def test_fields_are_chosen_and_ordered():
    menu, parser, args = parse_menu(Style(), "--cook", "x", fields=("spicy", "cook"))
    text = parser.format_help()
    assert text.index("--spicy") < text.index("--cook")
    assert "--guests" not in text
    assert menu.given(args) == {"cook": "x"}


def test_a_list_takes_several_words_and_may_be_given_again():
    style = Style(lists="words", default=" (default {})")
    words = ("--cook", "x", "--guests", "3", "4", "--guests", "5")
    menu, parser, args = parse_menu(style, *words)
    assert menu.read(args).guests == [3, 4, 5]
    assert "How many eat at each table. (default 2)" in parser.format_help()
    menu, _, args = parse_menu(style, "--cook", "x", "--guests", "3", "0")
    with pytest.raises(SettingError, match=r"^--guests = 0: must be at least 1$"):
        menu.read(args)


def test_a_repeatable_option_says_so():
    _, parser, _ = parse_menu(Style(), "--cook", "x")
    assert "(repeatable) What there is." in parser.format_help()


def test_what_a_file_may_give_is_not_asked_for():
    menu, _, args = parse_menu(Style(required=False))
    assert menu.given(args) == {}


def test_a_choice_with_a_placeholder_is_checked_by_the_settings():
    menu, parser, args = parse_menu(
        Style(), "--cook", "x", "--heat", "hot", metavars={"heat": "HEAT"}
    )
    assert "--heat HEAT" in parser.format_help()
    with pytest.raises(SettingError, match=r"^--heat = 'hot': must be 'low' or 'high'$"):
        menu.read(args)


def test_a_switch_may_be_one_that_cannot_be_denied(capsys):
    menu, _, args = parse_menu(Style(can_deny=False), "--cook", "x", "--spicy")
    assert menu.read(args).spicy
    with pytest.raises(SystemExit):
        parse_menu(Style(can_deny=False), "--cook", "x", "--no-spicy")
    assert "--no-spicy" in capsys.readouterr().err
