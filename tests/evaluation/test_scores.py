"""Scores as a table, as a file and as a picture."""

import json

import pytest

from gossamer.errors import AdapterNotFoundError
from gossamer.evaluation.picture import draw
from gossamer.evaluation.results import Scores, scores_of
from gossamer.evaluation.settings import EvalSettings

RESULTS = {
    "results": {
        "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1},
        "text": {
            "alias": "text",
            "word_perplexity,none": 12.5,
            "word_perplexity_stderr,none": "N/A",
        },
        "gsm": {"alias": "gsm", "exact_match,strict": 0.25, "exact_match_stderr,strict": 0.02},
    },
    "higher_is_better": {"arc": {"acc": True}, "text": {"word_perplexity": False}},
}


def scores():
    better = json.loads(json.dumps(RESULTS).replace("0.5", "0.75").replace("12.5", "11.5"))
    found = [*scores_of("tiny", RESULTS), *scores_of("pirate", better)]
    return Scores(("tiny", "pirate"), tuple(found), ("broken",), {"limit": 3}, {"lm-eval": "1"})


def test_the_harness_s_names_are_read():
    columns = scores().columns
    assert columns == [("arc", "acc"), ("text", "word_perplexity"), ("gsm", "exact_match (strict)")]
    first = scores().at("tiny", ("arc", "acc"))
    assert (first.value, first.error, first.higher_is_better) == (0.5, 0.1, True)
    assert scores().at("tiny", ("text", "word_perplexity")).error is None
    assert scores().at("nobody", ("arc", "acc")) is None


def test_a_row_for_each_model():
    assert scores().markdown().splitlines() == [
        "| model | arc acc | text word_perplexity | gsm exact_match (strict) |",
        "| --- | ---: | ---: | ---: |",
        "| tiny | 0.5000 ± 0.1000 | 12.5000 | 0.2500 ± 0.0200 |",
        "| pirate | 0.7500 ± 0.1000 | 11.5000 | 0.2500 ± 0.0200 |",
    ]


def test_the_file_has_all_of_it():
    told = json.loads(json.dumps(scores().as_dict()))
    assert told["models"] == ["tiny", "pirate"]
    assert told["left_out"] == ["broken"]
    assert told["settings"] == {"limit": 3}
    assert told["scores"][0]["value"] == 0.5


def test_a_folder_without_adapters_is_no_result(tmp_path, adapters_to_score):
    """A whole model, for one: its scores would be missing without a word."""

    def check(*folders):
        EvalSettings(model="m", tasks=("t",), adapters=folders).check()

    check()
    check(adapters_to_score, adapters_to_score / "a")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AdapterNotFoundError, match="holds no adapter to score"):
        check(adapters_to_score, tmp_path)


def test_a_picture_is_drawn(tmp_path):
    draw(scores(), tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
