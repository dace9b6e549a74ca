import json

import pytest

from gossamer.chat.own_server import read_words
from gossamer.errors import UsageError


def make(folder, base="tiny"):
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_adapters_and_base_are_told_apart_and_keep_their_order(tmp_path):
    pirate, chef = make(tmp_path / "pirate"), make(tmp_path / "chef")
    wanted = read_words([str(pirate), "smollm2-135m", str(chef)])
    assert wanted.base == "smollm2-135m"
    assert wanted.adapters == {"pirate": pirate, "chef": chef}
    assert wanted.columns == ("pirate", None, "chef")


def test_the_base_is_the_one_that_the_adapters_name(tmp_path):
    wanted = read_words([str(make(tmp_path / "pirate"))])
    assert (wanted.base, wanted.columns) == ("tiny", ("pirate",))


def test_folders_of_one_name_are_served_under_two(tmp_path):
    words = [str(make(tmp_path / side / "final")) for side in ("left", "right")]
    assert read_words(words).columns == ("final", "final-2")


@pytest.mark.parametrize(
    ("bases", "message"), [(("a", "b"), "name these bases: a, b"), (("", ""), "these bases: none")]
)
def test_adapters_of_no_common_base_are_refused(tmp_path, bases, message):
    words = [str(make(tmp_path / f"x{n}", base)) for n, base in enumerate(bases)]
    with pytest.raises(UsageError, match=message):
        read_words(words)


def test_two_bases_are_refused():
    with pytest.raises(UsageError, match="a and b are two base models"):
        read_words(["a", "b"])
