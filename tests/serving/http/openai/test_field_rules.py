"""Fields that change nothing, that are refused with a reason, and that templates read."""

import pytest

from gossamer.serving.http.openai.field_rules import TABLES

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


@pytest.fixture
def sent(make_engine, ask):
    """The request that the engine gets for a chat."""

    def sent(tokenizer=None, **fields):
        engine = make_engine()
        engine.tokenizer = tokenizer or engine.tokenizer
        response = ask(engine, "POST", CHAT, json={"model": "tiny", "messages": HELLO, **fields})
        assert response.status_code == 200, response.text
        return engine.submitted[0]

    return sent


class ThinkingTokenizer:
    """Has a template that reads variables."""

    chat_template = "{{ reasoning_effort }}"

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __call__(self, *args, **options):
        return self._tokenizer(*args, **options)

    def apply_chat_template(self, *args, **options):
        template = (
            "{{ messages[0]['content'] }}|{{ reasoning_effort }}|{{ verbosity }}|"
            "{{ 'thinks' if enable_thinking is not defined or enable_thinking else 'quick' }}"
        )
        return self._tokenizer.apply_chat_template(*args, **{**options, "chat_template": template})

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def test_of_two_limits_the_newer_counts(sent):
    assert sent(max_tokens=4, max_completion_tokens=7).sampling.max_tokens == 7
    assert sent(max_tokens=7, max_completion_tokens=4).sampling.max_tokens == 4
    assert sent(max_tokens=4).sampling.max_tokens == 4


@pytest.mark.parametrize(
    ("fields", "laid_out"),
    [
        ({}, "hello|||thinks"),
        ({"reasoning_effort": "low", "verbosity": "high"}, "hello|low|high|thinks"),
        ({"reasoning_effort": "none"}, "hello|none||quick"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "hello|none||thinks",
        ),
    ],
)
def test_templates_read_how_much_to_think_and_say(sent, tokenizer, fields, laid_out):
    request = sent(ThinkingTokenizer(tokenizer), **fields)
    assert tokenizer.decode(request.prompt_token_ids) == laid_out


@pytest.mark.parametrize(
    ("path", "fields", "laid_out"),
    [
        (RESPONSES, {"reasoning": {"effort": "low", "summary": "auto"}}, "hello|low||thinks"),
        (RESPONSES, {"reasoning": {"effort": "none"}}, "hello|none||quick"),
        (RESPONSES, {"text": {"verbosity": "high"}}, "hello||high|thinks"),
        (MESSAGES, {"output_config": {"effort": "low"}}, "hello|low||thinks"),
        (MESSAGES, {"thinking": {"type": "disabled"}}, "hello|||quick"),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 9}}, "hello|||thinks"),
        (
            MESSAGES,
            {
                "thinking": {"type": "enabled", "budget_tokens": 9},
                "chat_template_kwargs": {"enable_thinking": False},
            },
            "hello|||quick",
        ),
    ],
)
def test_so_they_do_on_the_other_routes(make_engine, ask, tokenizer, path, fields, laid_out):
    engine = make_engine()
    engine.tokenizer = ThinkingTokenizer(engine.tokenizer)
    said = {"input": "hello"} if path == RESPONSES else {"messages": HELLO, "max_tokens": 9}
    response = ask(engine, "POST", path, json={"model": "tiny", **said, **fields})
    assert response.status_code == 200, response.text
    assert tokenizer.decode(engine.submitted[0].prompt_token_ids) == laid_out


def test_a_template_that_reads_nothing_of_it_gives_the_same_prompt(sent):
    plain = sent().prompt_token_ids
    assert sent(reasoning_effort="high", verbosity="low").prompt_token_ids == plain


@pytest.mark.parametrize("stream_options", [{"include_usage": True}, {}])
def test_options_of_streams_ask_for_nothing_without_one(sent, stream_options):
    assert sent(stream_options=stream_options, stream=False).sampling == sent().sampling


def test_each_decision_has_a_reason():
    for rules in TABLES.values():
        for name, rule in rules.items():
            assert len(rule.reason) > 8, name
            assert rule.taken, name


def test_a_refusal_tells_the_reason(make_engine, ask):
    body = {"model": "tiny", "messages": HELLO, "n_predict": 5}
    message = ask(make_engine(), "POST", CHAT, json=body).json()["error"]["message"]
    assert message == "n_predict = 5 is not supported (send max_tokens); leave the field out"
