"""Tokens to text as they come: characters whole, stop texts found, nothing lost or doubled."""

import random

import pytest
from tokenizers import AddedToken

from gossamer.serving.engine.text_stream import TextStream

from tiny import byte_level_tokenizer, spell, tiny_tokenizer

ALPHABET = "ab \n.éß€漢字🙂🏳️‍🌈\u0301\u200dअनु"
EOS = 2


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def stream(tokenizer, tokens, stops=(), early=0):
    """Pieces of text per token, and whether a stop was met."""
    one = TextStream(tokenizer, tuple(stops))
    pieces = []
    for i, token in enumerate(tokens):
        text, met = one.push(token, look_for_stops=i >= early)
        pieces.append(text)
        if met:
            return pieces, True
    pieces.append(one.finish())
    return pieces, False


@pytest.mark.parametrize("seed", range(40))
def test_all_text_comes_out_whole(tokenizer, seed):
    rng = random.Random(seed)
    text = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, 60)))
    pieces, met = stream(tokenizer, encode(tokenizer, text))
    assert "".join(pieces) == text
    assert not met
    assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("seed", range(5))
def test_special_tokens_without_a_name_are_left_out_as_by_decode(seed):
    tokenizer = tiny_tokenizer()
    added = [AddedToken("<|channel|>", special=True), AddedToken("<think>", special=False)]
    tokenizer.add_tokens(added)
    channel = tokenizer.convert_tokens_to_ids("<|channel|>")
    assert channel not in tokenizer.all_special_ids
    words = ["a", "<|channel|>", "<think>", "<|im_start|>", "é"]
    tokens = encode(tokenizer, "".join(random.Random(seed).choices(words, k=12)) + words[1])
    pieces, _ = stream(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)
    kept = TextStream(tokenizer, (), kept_special_tokens=(channel,))
    assert kept.push(channel) == ("<|channel|>", False)


def test_each_character_comes_with_its_last_byte(tokenizer):
    pieces, _ = stream(tokenizer, encode(tokenizer, "a€🙂b"))
    assert pieces == ["a", "", "", "€", "", "", "", "🙂", "b", ""]


@pytest.mark.parametrize("seed", range(60))
def test_stops_are_found_where_they_first_are(tokenizer, seed):
    """Also across tokens, overlapping, and with a false start; never any of it is shown."""
    rng = random.Random(seed)
    text = "".join(rng.choice("ab€") for _ in range(40))
    stops = ["".join(rng.choice("ab€") for _ in range(rng.randint(1, 5))) for _ in range(3)]
    pieces, met = stream(tokenizer, encode(tokenizer, text), stops)
    ends = [text.index(s) + len(s) for s in stops if s in text]
    assert met == bool(ends)
    if ends:
        # The stop that is complete first ends the text, at the earliest beginning there.
        seen = text[: min(ends)]
        text = seen[: min(seen.index(s) for s in stops if s in seen)]
    assert "".join(pieces) == text


def test_text_that_may_become_a_stop_is_held_back_and_then_shown(tokenizer):
    pieces, met = stream(tokenizer, encode(tokenizer, "xSTOxSTOP"), ["STOP"])
    assert pieces == ["x", "", "", "", "STOx", "", "", "", ""]
    assert met


def test_what_was_held_back_is_shown_at_the_end(tokenizer):
    pieces, met = stream(tokenizer, encode(tokenizer, "abST"), ["STOP"])
    assert "".join(pieces) == "abST"
    assert pieces[-1] == "ST"
    assert not met


def test_stops_do_not_count_early(tokenizer):
    pieces, met = stream(tokenizer, encode(tokenizer, "a.b.c"), ["."], early=2)
    assert "".join(pieces) == "a.b"
    assert met


def test_special_tokens_show_nothing(tokenizer):
    tokens = [EOS, *encode(tokenizer, "é")[:1], EOS, *encode(tokenizer, "é")[1:], 0]
    pieces, _ = stream(tokenizer, tokens)
    assert pieces == ["", "", "", "é", "", ""]


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_no_text_come_out_soon_and_as_the_whole_does(tokenizer, seed):
    rng = random.Random(seed)
    tokens = [rng.randrange(3, len(tokenizer)) for _ in range(200)]
    pieces, _ = stream(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    silent = 0
    for piece in pieces:
        silent = 0 if piece else silent + 1
        assert silent <= 4


PARTS = [b"\x80\xf0", b"\x9f\x98", b"\n\xe2", b" \xe2\x82", b"\xac\xe2\x82", b"\xac", b"ab"]


@pytest.fixture(scope="module")
def parts():
    """A tokenizer with tokens that end one character and begin the next."""
    return byte_level_tokenizer(PARTS)


def ids_of(tokenizer, pieces):
    return [tokenizer.convert_tokens_to_ids(spell(piece)) for piece in pieces]


def test_tokens_that_end_one_character_and_begin_the_next(parts):
    tokens = ids_of(parts, [b"\xf0", *[b"\x9f\x98", b"\x80\xf0"] * 9, b"\x9f\x98", b"\x80"])
    pieces, _ = stream(parts, tokens)
    assert "".join(pieces) == "😀" * 10
    assert pieces[2] == "😀", "it is shown as soon as it is whole"


@pytest.mark.parametrize("seed", range(30))
def test_any_parts_of_characters_give_the_text_of_the_whole(parts, seed):
    rng = random.Random(seed)
    tokens = ids_of(parts, rng.choices([*PARTS, b"\xf0", b"\x80", b"x"], k=60))
    pieces, _ = stream(parts, tokens)
    assert "".join(pieces) == parts.decode(tokens)


@pytest.mark.parametrize(
    ("pieces", "stop", "text"),
    [
        ([b"a", b"\n\xe2"], "\n", "a"),
        ([b"a", b" \xe2\x82"], " \ufffd", "a"),
        ([b"a", b"ab", b" \xe2\x82"], "ab ", "a"),
    ],
)
def test_a_stop_that_ends_with_the_answer_is_no_part_of_it(parts, pieces, stop, text):
    one = TextStream(parts, (stop,))
    shown = "".join(one.push(token)[0] for token in ids_of(parts, pieces))
    assert shown + one.finish() == text
    assert one.met_stop


def test_a_stop_does_not_count_early_at_the_end_either(parts):
    one = TextStream(parts, ("\n",))
    (token,) = ids_of(parts, [b"\n\xe2"])
    text = one.push(token, look_for_stops=False)[0] + one.finish(look_for_stops=False)
    assert text == "\n\ufffd"
    assert not one.met_stop


class Counting:
    """A tokenizer that notes how many tokens it is asked to decode at a time."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.all_special_ids = tokenizer.all_special_ids
        self.most = 0

    def decode(self, tokens, **options):
        self.most = max(self.most, len(tokens))
        return self._tokenizer.decode(tokens, **options)


@pytest.mark.parametrize("token", [b"\xff", b"\x80", b"\xf0", b"a"], ids=str)
def test_decoding_does_not_grow_with_the_text(tokenizer, token):
    counting = Counting(tokenizer)
    byte = next(
        i for i in range(3, len(tokenizer)) if tokenizer.convert_ids_to_tokens(i) == spell(token)
    )
    stream(counting, [byte] * 500)
    assert counting.most < 20


def test_tokens_without_any_text_do_not_pile_up(tokenizer):
    counting = Counting(tokenizer)
    # Models have more rows than tokenizers have tokens; such ids decode to nothing.
    pieces, _ = stream(counting, [*encode(tokenizer, "a"), *[len(tokenizer) + 5] * 500])
    assert "".join(pieces) == "a"
    assert counting.most < 20
