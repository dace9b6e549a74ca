"""POST /tokenize and /detokenize, in vLLM's shapes."""

import pytest

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def post(make_engine, ask):
    def post(path, **body):
        return ask(make_engine(), "POST", path, json=body)

    return post


def test_a_text_goes_there_and_back(post, tokenizer):
    told = post("/tokenize", prompt="Once \u00e9", return_token_strs=True).json()
    ids = tokenizer("Once \u00e9")["input_ids"]
    assert told == {
        "count": len(ids),
        "max_model_len": 256,
        "tokens": ids,
        "token_strs": tokenizer.convert_ids_to_tokens(ids),
    }
    assert post("/detokenize", tokens=ids, model="pirate").json() == {"prompt": "Once \u00e9"}
    assert post("/detokenize", tokens=[]).json() == {"prompt": ""}
    assert post("/tokenize", prompt="").json()["count"] == 0


def test_a_conversation_has_the_tokens_that_a_chat_has(make_engine, ask, post):
    engine = make_engine()
    ask(engine, "POST", "/v1/chat/completions", json={"model": "tiny", "messages": HELLO})
    told = post("/tokenize", model="tiny", messages=HELLO).json()
    assert tuple(told["tokens"]) == engine.submitted[0].prompt_token_ids
    assert told["token_strs"] is None
    shorter = post("/tokenize", messages=HELLO, add_generation_prompt=False).json()
    assert shorter["count"] < told["count"]
    assert shorter["tokens"] == told["tokens"][: shorter["count"]]


def test_tools_are_counted_with_a_conversation(post):
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    plain = post("/tokenize", messages=HELLO).json()
    with_tools = post("/tokenize", messages=HELLO, tools=[tool]).json()
    assert with_tools["count"] > plain["count"] + 20


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "part"),
    [
        ("/tokenize", {}, 400, "prompt", "'messages'"),
        ("/tokenize", {"prompt": 5}, 400, "prompt", "text"),
        ("/tokenize", {"prompt": "a", "tokens": [1]}, 400, "tokens", "unknown field"),
        ("/tokenize", {"prompt": "a", "model": "nobody"}, 404, "model", "unknown model"),
        ("/tokenize", {"prompt": "a", "model": 5}, 400, "model", "text"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, 400, "add_special_tokens", "true"),
        ("/tokenize", {"messages": HELLO, "add_special_tokens": True}, 400, "add_special_tokens",
         "template"),
        ("/tokenize", {"messages": "x"}, 400, "messages", "list"),
        ("/tokenize", {"messages": HELLO, "max_tokens": 3}, 400, "max_tokens", "unknown field"),
        ("/detokenize", {}, 400, "tokens", "list of token ids"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens", "list of token ids"),
        ("/detokenize", {"tokens": [5, 100_000]}, 400, "tokens", "from 0 to 258"),
        ("/detokenize", {"tokens": [5] * 300}, 400, None, "context"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(post, path, body, status, param, part):
    response = post(path, **body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
