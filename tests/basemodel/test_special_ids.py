"""Ids that end a text: taken from the model and the tokenizer, refused where they cannot be."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.basemodel.special_ids import end_token_ids
from gossamer.errors import CorruptModelError
from gossamer.serving.engine.build import build_engine
from gossamer.serving.settings import ServeSettings

from tiny import make_tiny_model

WIDTH = 10


def model(eos, width=WIDTH):
    return SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=eos),
        get_output_embeddings=lambda: SimpleNamespace(weight=torch.zeros(width, 2)),
    )


class FakeTokenizer:
    def __init__(self, eos=2, adds=(), special=()):
        self.eos_token_id = eos
        self.all_special_ids = [*special]
        self.adds = [*adds]

    def __call__(self, text):
        return SimpleNamespace(input_ids=self.adds)


@pytest.mark.parametrize(
    ("eos", "others", "found"),
    [
        (3, 2, {2, 3}),
        ([3, 4], None, {3, 4}),
        (None, 2, {2}),
        (None, None, set()),
        ((9,), 0, {0, 9}),
    ],
)
def test_all_ids_that_end_a_text(eos, others, found):
    assert end_token_ids(model(eos), FakeTokenizer(others)) == found


@pytest.mark.parametrize(
    ("eos", "words"),
    [
        ([2, 5000], "generation_config.json: eos_token_id 5000 lies beyond the model's 10 tokens"),
        (10, "eos_token_id 10 lies beyond"),
        (-1, "eos_token_id -1 lies beyond"),
        ("</s>", "eos_token_id = </s> is no token id"),
        (2.0, "eos_token_id = 2.0 is no token id"),
        ([True], "eos_token_id = True is no token id"),
        ([[2]], r"eos_token_id = [2] is no token id"),
    ],
)
def test_ids_that_the_model_cannot_produce_are_refused_at_the_start(eos, words):
    with pytest.raises(CorruptModelError) as caught:
        end_token_ids(model(eos), FakeTokenizer())
    assert words in str(caught.value)


def test_the_tokenizers_own_ids():
    with pytest.raises(CorruptModelError, match="the tokenizer: eos_token_id 11"):
        end_token_ids(model(2), FakeTokenizer(11))
    with pytest.raises(CorruptModelError, match="adds token 12 to every text"):
        end_token_ids(model(2), FakeTokenizer(adds=[12]))


def test_other_special_tokens_beyond_the_logits_are_told_and_do_no_harm(caplog):
    # A padding token that was added for training, and a model wider than its tokenizer.
    with caplog.at_level(logging.WARNING):
        assert end_token_ids(model(2), FakeTokenizer(special=[2, 10])) == {2}
        assert "[10]" in caplog.text
        caplog.clear()
        assert end_token_ids(model(2, width=64), FakeTokenizer(special=[2, 10])) == {2}
        assert not caplog.text


def test_a_real_model(tmp_path):
    folder = make_tiny_model(tmp_path / "tiny")
    loaded, tokenizer = load_model(folder, dtype=torch.float32), load_tokenizer(folder)
    assert end_token_ids(loaded, tokenizer) == {2}
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, 5000]}))
    with pytest.raises(CorruptModelError, match="5000 lies beyond the model's 259 tokens"):
        build_engine(ServeSettings(model=str(folder), memory_gib=0.002))
