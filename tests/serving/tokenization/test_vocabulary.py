"""The bytes of tokens, in the families of vocabularies; how log-probabilities show them."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from gossamer.serving.core.messages import TokenLogprob, Tokens
from gossamer.serving.http.openai.chat.reply import ChatReply
from gossamer.serving.http.openai.responses import CompletionReply
from gossamer.serving.tokenization.vocabulary import Vocabulary, vocabulary_of

from tiny import byte_level_tokenizer, spell

PARTS = [b"\xf0\x9f", b"\x98\x80", b"ab", b" \xe2"]


def wrap(model, decoder, **options):
    inner = Tokenizer(model)
    inner.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, **options)


def sentencepiece():
    tokens = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581Hello",
        "lo",
        "é",
    ]
    decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    model = models.BPE({token: id_ for id_, token in enumerate(tokens)}, [], byte_fallback=True)
    return wrap(model, decoder, eos_token="</s>", unk_token="<unk>")


def wordpiece():
    model = models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]")
    return wrap(model, decoders.WordPiece(), unk_token="[UNK]")


def bytes_of(tokenizer, *tokens):
    vocabulary = Vocabulary(tokenizer)
    return [vocabulary.bytes_of(tokenizer.convert_tokens_to_ids(token)) for token in tokens]


def test_byte_level():
    tokenizer = byte_level_tokenizer(PARTS)
    assert bytes_of(tokenizer, *map(spell, PARTS)) == PARTS
    assert bytes_of(tokenizer, "<|im_end|>") == [b"<|im_end|>"]
    vocabulary = Vocabulary(tokenizer)
    assert {vocabulary.bytes_of(3 + n) for n in range(256)} == {bytes([n]) for n in range(256)}
    assert vocabulary.bytes_of(10_000) == b"", "a model may have more rows than tokens"
    assert vocabulary.is_concatenated


def test_an_added_token_is_what_it_decodes_to():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("two words"), AddedToken("<think>")])
    for token in ("two words", "<think>"):
        id_ = tokenizer.convert_tokens_to_ids(token)
        assert Vocabulary(tokenizer).text_of(id_) == tokenizer.decode([id_]) == token


def test_sentencepiece():
    tokenizer = sentencepiece()
    assert bytes_of(tokenizer, "<0xE2>", "\u2581Hello", "lo", "é", "</s>") == [
        b"\xe2",
        b" Hello",
        b"lo",
        "é".encode(),
        b"</s>",
    ]
    assert not Vocabulary(tokenizer).is_concatenated, "the first blank of a text is left out"


def test_wordpiece():
    assert bytes_of(wordpiece(), "play", "##ing") == [b" play", b"ing"]


def test_a_tokenizer_has_one_vocabulary_and_is_not_kept_by_it():
    tokenizer = byte_level_tokenizer()
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary_of(tokenizer) is vocabulary
    del tokenizer
    with pytest.raises(ReferenceError):
        vocabulary.bytes_of(5)


def event(tokenizer, *pieces):
    vocabulary = vocabulary_of(tokenizer)
    ids = [tokenizer.convert_tokens_to_ids(spell(piece)) for piece in pieces]
    tokens = [
        TokenLogprob(
            token_id=id_,
            text=vocabulary.text_of(id_),
            logprob=-0.5,
            top=((ids[0], vocabulary.text_of(ids[0]), -0.25),),
        )
        for id_ in ids
    ]
    return Tokens(request_id="r", token_ids=tuple(ids), text="", logprobs=tuple(tokens))


def reply(kind, tokenizer):
    vocabulary = vocabulary_of(tokenizer)
    return kind(reply_id="x", model="m", created=0, has_logprobs=True, vocabulary=vocabulary)


def test_chats_tell_the_bytes_of_parts_of_characters():
    tokenizer = byte_level_tokenizer(PARTS)
    [chunk] = reply(ChatReply, tokenizer).delta(
        0, event(tokenizer, b"\xf0\x9f", b"\x98\x80", b"ab")
    )
    entries = chunk["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == "😀ab"
    # As OpenAI writes what is no text.
    assert [entry["token"] for entry in entries] == ["\\xf0\\x9f", "\\x98\\x80", "ab"]
    top = entries[2]["top_logprobs"][0]
    assert (top["token"], top["bytes"]) == ("\\xf0\\x9f", [0xF0, 0x9F])


def test_completions_keep_parts_of_characters_apart_and_count_whole_ones():
    tokenizer = byte_level_tokenizer(PARTS)
    one = reply(CompletionReply, tokenizer)
    first = one.delta(0, event(tokenizer, b"\xf0\x9f"))[0]["choices"][0]["logprobs"]
    second = one.delta(0, event(tokenizer, b"\x98\x80", b"ab"))[0]["choices"][0]["logprobs"]
    assert first["tokens"] == ["bytes:\\xf0\\x9f"]
    assert second["tokens"] == ["bytes:\\x98\\x80", "ab"]
    assert second["top_logprobs"][1] == {"bytes:\\x98\\x80": -0.25, "ab": -0.5}
    assert [*first["text_offset"], *second["text_offset"]] == [0, 0, 1]
