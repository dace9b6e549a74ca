import pytest

from gossamer.chat.commands import COMMANDS, Commands
from gossamer.chat.history import ChatHistory, ChatSettings


@pytest.fixture
def conversation():
    talk = ChatHistory(["base", "pirate"], ChatSettings())
    talk.add("Hi", {"base": "Hello", "pirate": "Arr"})
    return talk


@pytest.fixture
def commands(conversation):
    return Commands(conversation, lambda: ["base", "chef", "pirate"])


def test_models_marks_those_that_are_asked(commands):
    assert commands.run("/models").text.splitlines() == ["* base", "* pirate", "  chef"]


def test_models_come_and_go(commands, conversation):
    assert commands.run("/add chef").text == "asking base, pirate, chef"
    assert commands.run("/add chef").text == "asking base, pirate, chef"
    commands.run("/drop base")
    commands.run("/drop pirate")
    assert conversation.models == ["chef"]
    assert "the last model stays" in commands.run("/drop chef").text
    assert "'nobody' is not asked" in commands.run("/drop nobody").text


def test_settings_change_and_return_to_the_servers(commands, conversation):
    assert "temperature 0.5" in commands.run("/set temperature 0.5").text
    assert conversation.body("base", "?")["temperature"] == 0.5
    commands.run("/set temperature")
    assert "temperature" not in conversation.body("base", "?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temperature hot", "temperature"),
        ("/set temperature 7", "temperature"),
        ("/set temprature 1", "did you mean 'temperature'"),
        ("/modls", "did you mean 'models'"),
        ("/add", "/add NAME"),
        ("/save", "/save FILE"),
    ],
)
def test_mistakes_are_told_and_change_nothing(commands, conversation, line, message):
    before = (list(conversation.models), conversation.settings)
    outcome = commands.run(line)
    assert message in outcome.text
    assert not outcome.is_over
    assert (list(conversation.models), conversation.settings) == before


def test_the_last_question_again_undone_and_all_forgotten(commands, conversation):
    assert commands.run("/again").question == "Hi"
    assert commands.run("/again").text == "nothing has been asked"
    conversation.add("Who?", {"base": "I"})
    assert commands.run("/undo").text == "forgotten: Who?"
    conversation.add("Who?", {"base": "I"})
    commands.run("/clear")
    assert not conversation.turns


def test_a_system_prompt_for_what_is_asked_next(commands, conversation):
    commands.run("/system Speak as a cook.")
    assert conversation.body("base", "?")["messages"][0]["content"] == "Speak as a cook."
    commands.run("/system")
    assert conversation.body("base", "?")["messages"][0]["role"] == "user"


def test_a_file_is_written_and_none_is_overwritten(commands, tmp_path):
    path = tmp_path / "chat.md"
    assert str(path) in commands.run(f"/save {path}").text
    assert "## pirate\n\nArr" in path.read_text()
    assert "exists" in commands.run(f"/save {path}").text
    assert "No such file" in commands.run(f"/save {tmp_path}/nowhere/chat.md").text


def test_help_has_a_line_for_every_command(commands):
    text = commands.run("/help").text
    assert all(command.usage in text for command in COMMANDS.values())
    assert commands.run("/quit").is_over
