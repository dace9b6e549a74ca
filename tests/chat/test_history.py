from gossamer.chat.history import ChatHistory, ChatSettings


def contents(body):
    return [(m["role"], m["content"]) for m in body["messages"]]


def test_each_model_sees_its_own_replies():
    conversation = ChatHistory(["a", "b"], ChatSettings(system="Be brief.", temperature=0))
    conversation.add("Hi", {"a": "Hello", "b": "Arr"})
    body = conversation.body("b", "And now?")
    assert contents(body) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Arr"),
        ("user", "And now?"),
    ]
    assert body["model"] == "b"
    assert body["temperature"] == 0
    assert "seed" not in body, "what is not set is the server's to choose"


def test_a_model_that_gave_no_reply_has_not_heard_the_question():
    conversation = ChatHistory(["a"], ChatSettings())
    conversation.add("Hi", {"a": "Hello"})
    assert contents(conversation.body("late", "Who?")) == [("user", "Who?")]


def test_the_last_turn_can_be_taken_back():
    conversation = ChatHistory(["a"], ChatSettings())
    conversation.add("one", {"a": "1"})
    conversation.add("two", {"a": "2"})
    assert conversation.take_back() == "two"
    assert contents(conversation.body("a", "three"))[0] == ("user", "one")
    assert conversation.take_back() == "one"
    assert conversation.take_back() is None


def test_it_is_written_as_markdown():
    conversation = ChatHistory(["a", "b"], ChatSettings(system="Be brief."))
    conversation.add("Hi", {"a": "Hello", "b": "Arr"})
    assert conversation.as_markdown() == (
        "## System\n\nBe brief.\n\n## You\n\nHi\n\n## a\n\nHello\n\n## b\n\nArr\n"
    )
