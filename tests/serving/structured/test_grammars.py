"""Forms of answers: what they admit, where they end, what is refused and where it stands."""

import json

import numpy as np
import pytest

from gossamer.errors import RequestError
from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.structured import grammars as compiled_grammars
from gossamer.serving.structured.grammars import Grammars

from tiny import byte_level_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.eos_token_id
SIZE = len(TOKENIZER) + 5
"""Models often have more logits than their tokenizer has tokens."""


@pytest.fixture(scope="module")
def grammars():
    grammars = Grammars(TOKENIZER, [END], SIZE)
    yield grammars
    grammars.close()


def allowed(matcher):
    bits = np.unpackbits(matcher.mask(), bitorder="little", count=SIZE)
    return set(np.flatnonzero(bits).tolist())


def admits(grammars, form, text, tokenizer=TOKENIZER):
    """Whether `text` has the form, judged as generation does: each token by the mask before it."""
    matcher = grammars.matcher(form)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for place, token in enumerate(tokens, 1):
        if token not in allowed(matcher):
            return False
        if matcher.take(token):
            return place == len(tokens)
    return END in allowed(matcher)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "$ref": "#/$defs/node",
}
PETS = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["kind", "lives"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"kind": {"const": "dog"}, "name": {"type": "string"}},
            "required": ["kind", "name"],
            "additionalProperties": False,
        },
    ]
}
CASES = [
    (
        StructuredOutputs(json=PERSON),
        ['{"name":"Zoë"}', '{"name": "Ada",\n "age": 36}'],
        ["{}", '{"age":1}', '{"name":"A","age":-1}', '{"name":"A","x":1}', '["name"]'],
    ),
    (StructuredOutputs(json=json.dumps(PERSON)), ['{"name":"A","age":0}'], ["{"]),
    (StructuredOutputs(json={"type": "object"}), ["{}", '{"a":[1,{"b":null}]}'], ["[]", "1", ""]),
    (StructuredOutputs(json={}), ["1", '"a"', "[]", "null"], ["nul", "'a'"]),
    (StructuredOutputs(json=True), ["{}"], ["{]"]),
    (StructuredOutputs(json=TREE), ["[]", "[[],[[]]]"], ["[", "[1]"]),
    (StructuredOutputs(json=PETS), ['{"kind":"cat","lives":9}'], ['{"kind":"cat","name":"Rex"}']),
    (StructuredOutputs(json={"enum": ["a", 1, None]}), ['"a"', "1", "null"], ["2", '"b"']),
    (StructuredOutputs(json={"type": "string", "pattern": "^[a-c]{2}$"}), ['"ab"'], ['"abc"']),
    (StructuredOutputs(json={"minLength": 2, "type": "string"}), ['"äö"'], ['"a"', '"ä"']),
    (StructuredOutputs(json={"type": "array", "maxItems": 2}), ["[1]", "[1,2]"], ["[1,2,3]"]),
    (StructuredOutputs(json={"type": "number", "multipleOf": 5}), ["15"], ["12"]),
    (StructuredOutputs(json={"type": "string", "format": "date"}), ['"2024-02-29"'], ['"today"']),
    (StructuredOutputs(json={"allOf": [{"minimum": 3}, {"type": "integer"}]}), ["4"], ["2"]),
    (StructuredOutputs(regex=r"[A-Z]{3}-\d+"), ["ABC-1", "ABC-123"], ["AB-1", "ABC-", "ABC-1x"]),
    (StructuredOutputs(choice=["no", 'a "quote"\n']), ["no", 'a "quote"\n'], ["n", "nope"]),
    (StructuredOutputs(grammar='start: "a" b+\nb: "x" | "y"'), ["axy"], ["a", "b"]),
    (StructuredOutputs(grammar='root ::= "a" b*\nb ::= [x-z]{2} | "b"'), ["a", "axxb"], ["ax"]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "good", "bad"), CASES)
def test_an_answer_has_the_form_that_is_asked_for(grammars, form, good, bad):
    for text in good:
        assert admits(grammars, form, text), text
    for text in bad:
        assert not admits(grammars, form, text), text


@pytest.mark.parametrize("size", [len(TOKENIZER), 288, 319, 320, 321])
def test_masks_have_a_bit_for_each_token_whatever_their_number(size):
    grammars = Grammars(TOKENIZER, [END], size)
    for form in (StructuredOutputs(regex="[ab]+"), StructuredOutputs(choice=["ab", "b"])):
        matcher = grammars.matcher(form)
        assert len(matcher.mask()) == -(-size // 32) * 4
        for token in TOKENIZER.encode("ab", add_special_tokens=False):
            assert np.unpackbits(matcher.mask(), bitorder="little")[token]
            matcher.take(token)
        assert len(matcher.mask()) == -(-size // 32) * 4
    grammars.close()


def test_special_tokens_come_only_where_a_grammar_names_them(grammars):
    anything = grammars.matcher(StructuredOutputs(regex=r"(.|\n)*"))
    special = set(TOKENIZER.all_special_ids)
    assert allowed(anything) & special == {END}
    assert max(allowed(anything)) < len(TOKENIZER)
    named = grammars.matcher(StructuredOutputs(grammar='start: "a" <|im_start|> "b"'))
    assert not named.take(TOKENIZER.encode("a")[0])
    assert allowed(named) == {TOKENIZER.convert_tokens_to_ids("<|im_start|>")}


def test_free_text_until_a_tag_and_a_form_behind_it(grammars):
    form = StructuredOutputs(
        grammar="start: TEXT | TEXT? call+\nTEXT: /(.|\\n)*/\n"
        'call: <|im_start|> %json {"type": "object", "required": ["a"]} <|endoftext|>'
    )
    assert admits(grammars, form, "any text\n")
    begin, end = TOKENIZER.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    matcher = grammars.matcher(form)
    for token in (*TOKENIZER.encode("Well: "), begin, *TOKENIZER.encode('{"a":1}')):
        assert token in allowed(matcher)
        matcher.take(token)
    assert allowed(matcher) & {begin, end, END} == {end}


UNKNOWN = ("path", "password", "binary", "byte", "json-string", "uri-reference", "int32")


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_format_that_is_not_known_is_a_note(grammars, name):
    named = {"properties": {"format": {"type": "string", "format": name}}, "required": ["format"]}
    form = StructuredOutputs(json={"anyOf": [named, {"const": {"format": name}}]})
    assert admits(grammars, form, '{"format":"any text"}')
    assert not admits(grammars, form, '{"format":1}')
    form = StructuredOutputs(json={"const": {"format": name}})
    assert admits(grammars, form, json.dumps({"format": name}))
    assert not admits(grammars, form, "{}")


DAYS = [
    ("2024-02-29", True), ("2000-02-29", True), ("2023-02-28", True), ("2023-12-31", True),
    ("2023-02-29", False), ("1900-02-29", False), ("2023-04-31", False), ("0000-01-01", False),
]  # fmt: skip


@pytest.mark.parametrize(("day", "is_one"), DAYS)
def test_dates_are_days_of_the_calendar(grammars, day, is_one):
    date = {"type": "string", "format": "date"}
    for schema in (date, date | {"pattern": "^[0-9]{4}"}, {"format": "date", "maxLength": 10}):
        assert admits(grammars, StructuredOutputs(json=schema), f'"{day}"') == is_one
    moment = StructuredOutputs(json={"type": "string", "format": "date-time"})
    for clock in ("T23:59:60Z", "t00:00:00.125+01:30"):
        assert admits(grammars, moment, f'"{day}{clock}"') == is_one
    assert not admits(grammars, moment, f'"{day}T24:00:00Z"')
    assert not admits(grammars, moment, f'"{day}"')


FRAME = 'start: @form | "<" inner ">"\ninner: @form | %json {"type": "object"}'
FRAMED = [
    (StructuredOutputs(json={"enum": [1, "a"]}, frame=FRAME), ["1", '<"a">', '<{"b":1}>'], ["{}"]),
    (StructuredOutputs(regex="[ab]/{2}", frame=FRAME), ["a//", "<b//>", "<{}>"], ["a/", "<a//"]),
    (StructuredOutputs(choice=["yes", "no"], frame=FRAME), ["yes", "<no>"], ["<yesno>"]),
    (StructuredOutputs(grammar='start: a a\na: "x"', frame=FRAME), ["xx", "<xx>"], ["x", "<x>"]),
    (StructuredOutputs(grammar='root ::= "a" "b"*', frame=FRAME), ["abb", "<a>"], ["b"]),
]


@pytest.mark.parametrize(("form", "good", "bad"), FRAMED)
def test_a_form_may_stand_within_another_grammar(grammars, form, good, bad):
    for text in good:
        assert admits(grammars, form, text), text
    for text in bad:
        assert not admits(grammars, form, text), text


def test_what_is_wrong_with_a_form_in_a_frame_has_its_place(grammars):
    form = StructuredOutputs(json={"items": {"uniqueItems": True}}, frame=FRAME)
    with pytest.raises(RequestError, match=r"'uniqueItems'.* at #/items$"):
        grammars.matcher(form)


def test_where_the_end_is_ignored_it_comes_when_nothing_else_can(grammars):
    matcher = grammars.matcher(StructuredOutputs(regex="a{2,3}"), ignores_ends=True)
    (a,) = TOKENIZER.encode("a")
    assert not matcher.take(a)
    assert not matcher.take(a)
    assert allowed(matcher) == {a}
    assert matcher.take(a), "nothing can follow"


def test_tokens_of_several_bytes_and_broken_characters():
    tokenizer = byte_level_tokenizer([b'{"a":', "é".encode(), b"\xc3"])
    grammars = Grammars(tokenizer, [END], len(tokenizer))
    matcher = grammars.matcher(StructuredOutputs(json={"type": "object", "required": ["a"]}))
    bits = np.unpackbits(matcher.mask(), bitorder="little")
    texts = {tokenizer.decode([token]) for token in np.flatnonzero(bits)}
    assert texts >= {"{", '{"a":'}
    assert "é" not in texts
    grammars.close()


REFUSED = [
    (
        StructuredOutputs(json={"properties": {"a": {"items": {"uniqueItems": True}}}}),
        "'uniqueItems'",
        "#/properties/a/items",
    ),
    (
        StructuredOutputs(json={"$defs": {"q": {"type": "strin"}}, "items": {"$ref": "#/$defs/q"}}),
        "strin",
        "#/$defs/q",
    ),
    (StructuredOutputs(json={"anyOf": [{}, {"not": {}}]}), "'not'", "#/anyOf/1"),
    (
        StructuredOutputs(json={"properties": {"a/b": {"pattern": "(?=a)b"}}}),
        "look-around",
        "#/properties/a~1b",
    ),
    (StructuredOutputs(json={"oneOf": [{"type": "object"}, {"minProperties": 1}]}), "oneOf", ""),
    (StructuredOutputs(json={"$ref": "http://example.com/schema.json"}), "example.com", ""),
    (StructuredOutputs(json={"$ref": "file:///etc/passwd"}), "", ""),
    (StructuredOutputs(json={"$ref": "#/nowhere"}), "/nowhere", ""),
    (StructuredOutputs(json={"$ref": "#"}), "nothing can be written", ""),
    (StructuredOutputs(json=False), "", ""),
    (StructuredOutputs(json={"enum": []}), "", ""),
    (StructuredOutputs(json="{"), "no JSON", ""),
    (StructuredOutputs(json="[1]"), "an object", ""),
    (StructuredOutputs(json='{"items":' * 500 + "{}" + "}" * 500), "", ""),
    (StructuredOutputs(json='{"items":' * 100 + "{}" + "}" * 100), "levels", ""),
    (StructuredOutputs(json={"maxItems": 10**9}), "maxItems at #", ""),
    (StructuredOutputs(json={"properties": {f"p{n}": {} for n in range(2_000)}}), "properties", ""),
    (StructuredOutputs(json={"title": "x" * 100_000}), "characters", ""),
    (
        StructuredOutputs(json={"allOf": [{"pattern": f"a.{{{n}}}b"} for n in range(30)]}),
        "parts that meet",
        "",
    ),
    (
        StructuredOutputs(json={"anyOf": [{"oneOf": [{"const": n}, {}]} for n in range(200)]}),
        "too many of oneOf",
        "",
    ),
    (StructuredOutputs(choice=["x" * 5_000]), "characters", ""),
    (
        StructuredOutputs(grammar="root ::= " + " | ".join(f'"v{n}"' for n in range(900))),
        "row has",
        "",
    ),
    (StructuredOutputs(regex="(?=a)b"), "look-around", ""),
    (StructuredOutputs(regex="("), "", ""),
    (StructuredOutputs(regex="(" * 5_000 + "a" + ")" * 5_000), "levels", ""),
    (StructuredOutputs(grammar="start: missing"), "missing", ""),
    (StructuredOutputs(grammar="start: <|no_such_token|>"), "", ""),
    (StructuredOutputs(grammar='root ::= "a" missing'), "missing", ""),
    (StructuredOutputs(grammar='root ::= "a'), "GBNF", ""),
    (StructuredOutputs(grammar="start: " + "(" * 30_000 + '"a"' + ")" * 30_000), "levels", ""),
    (StructuredOutputs(grammar="\n".join(f"r{n}: r{n + 1}" for n in range(5_000))), "rules", ""),
]  # fmt: skip


@pytest.mark.parametrize(("form", "reason", "place"), REFUSED)
def test_what_cannot_be_kept_to_is_refused_with_its_place(grammars, form, reason, place):
    with pytest.raises(RequestError) as refused:
        grammars.matcher(form)
    message = str(refused.value)
    assert refused.value.param == "structured_outputs"
    assert message.startswith(f"'structured_outputs' ({form.kind}) cannot be kept to: ")
    assert reason in message
    assert message.endswith(place)


@pytest.mark.parametrize(
    "given",
    [{}, {"regex": "a", "choice": ["a"]}, {"choice": []}, {"choice": "abc"}, {"choice": [1]},
     {"choice": [""]}, {"regex": 1}, {"grammar": b"a"}, {"json": [1]}],
)  # fmt: skip
def test_one_form_of_the_right_type_is_given(given):
    with pytest.raises(RequestError, match="structured_outputs"):
        StructuredOutputs(**given)


def test_a_schema_that_json_cannot_express_is_refused(grammars):
    with pytest.raises(RequestError, match="structured_outputs"):
        grammars.matcher(StructuredOutputs(json={"const": float("nan")}))
    with pytest.raises(RequestError, match="structured_outputs"):
        grammars.matcher(StructuredOutputs(json={"const": object()}))


def test_thousands_of_choices_are_one_step(grammars):
    texts = [f"choice number {n}" for n in range(2_000)]
    for form in (StructuredOutputs(choice=texts), StructuredOutputs(json={"enum": texts})):
        text = texts[1234] if form.kind == "choice" else json.dumps(texts[1234])
        assert admits(grammars, form, text)
        assert not admits(grammars, form, text[:-1] + "x")


def test_long_chains_of_references_are_followed(grammars):
    chain = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(900)}
    schema = {"$defs": {**chain, "d900": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    assert admits(grammars, StructuredOutputs(json=schema), '{"a":{"a":{}}}')


def test_a_form_is_compiled_once_and_the_oldest_make_room(monkeypatch):
    monkeypatch.setattr(compiled_grammars, "MAX_GRAMMARS", 3)
    grammars = Grammars(TOKENIZER, [END], SIZE)
    asked = []
    compile_form = compiled_grammars.compile_form

    def noted(tokenizer, kind, text, frame):
        asked.append(text)
        return compile_form(tokenizer, kind, text, frame)

    monkeypatch.setattr(compiled_grammars, "compile_form", noted)
    for regex in ("a", "a", "b", "c", "a", "d", "a", "b"):
        grammars.matcher(StructuredOutputs(regex=regex))
    assert asked == ["a", "b", "c", "d", "b"]
    assert grammars.num_kept == 3
    stats = grammars.stats()
    assert (stats.asked, stats.hits, stats.refused, stats.kept) == (8, 3, 0, 3)
    assert sum(stats.seconds.counts) == 5
    monkeypatch.setattr(compiled_grammars, "MAX_KEPT_CHARACTERS", 150)
    grammars.matcher(StructuredOutputs(regex="e" * 100))
    grammars.matcher(StructuredOutputs(regex="f" * 100))
    assert grammars.num_kept == 1
    with pytest.raises(RequestError):
        grammars.matcher(StructuredOutputs(regex="("))
    assert grammars.num_kept == 1
    grammars.close()


def test_without_an_end_of_text_token_forms_are_refused():
    grammars = Grammars(TOKENIZER, [], SIZE)
    with pytest.raises(RequestError, match="end-of-text"):
        grammars.matcher(StructuredOutputs(regex="a"))
    grammars.close()


def test_what_is_prepared_is_found_as_long_as_it_is_held(monkeypatch):
    monkeypatch.setattr(compiled_grammars, "MAX_GRAMMARS", 1)
    grammars = Grammars(TOKENIZER, [END], SIZE)
    try:
        first, other = StructuredOutputs(choice=["a"]), StructuredOutputs(choice=["b"])
        held = grammars.prepare(first)
        held.result(60)
        grammars.prepare(other).result(60)
        assert allowed(grammars.matcher(first)) == set(TOKENIZER.encode("a"))
        assert sum(grammars.stats().seconds.counts) == 2
    finally:
        grammars.close()


def test_preparing_counts_as_asking_does(grammars):
    before = grammars.stats()
    form = StructuredOutputs(choice=["prepared", "once"])
    grammars.prepare(form).result(60)
    grammars.matcher(form)
    grammars.matcher(form)
    with pytest.raises(RequestError, match=r"'structured_outputs' \(regex\) cannot be kept to"):
        grammars.prepare(StructuredOutputs(regex="(")).result(60)
    with pytest.raises(RequestError, match="characters; at most"):
        grammars.prepare(StructuredOutputs(regex="a" * 70_000)).result(60)
    after = grammars.stats()
    assert after.asked - before.asked == 4
    assert after.hits - before.hits == 1
    assert after.refused - before.refused == 2
