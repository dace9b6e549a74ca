"""The commands of a chat, which begin with a slash."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.chat.history import ChatHistory
from gossamer.errors import GossamerError, SettingError, UsageError, unknown_name_message
from gossamer.files import write_whole


@dataclass(slots=True)
class CommandResult:
    """What a command leads to."""

    text: str = ""
    """What is told."""
    question: str | None = None
    """What is to be asked now."""
    is_over: bool = False


class Commands:
    """Carries out the commands of one conversation; `known` lists the server's models."""

    def __init__(self, history: ChatHistory, known: Callable[[], Sequence[str]]) -> None:
        self._history = history
        self._known = known

    def run(self, line: str) -> CommandResult:
        """Carry out a line that begins with a slash; a mistake is told, and nothing raised."""
        name, _, rest = line[1:].partition(" ")
        try:
            if name not in COMMANDS:
                raise UsageError(f"{unknown_name_message('command', name, COMMANDS)}; see /help")
            return COMMANDS[name].act(self, rest.strip())
        except GossamerError as error:
            return CommandResult(str(error))
        except OSError as error:
            return CommandResult(" ".join(str(error).split()))

    def help(self, rest: str) -> CommandResult:
        """Tell the commands."""
        width = max(len(c.usage) for c in COMMANDS.values())
        lines = [f"{c.usage:<{width}}  {c.sentence}" for c in COMMANDS.values()]
        lines.append(
            'A line that ends in \\ goes on in the next; """ begins and ends a text of several.'
            " Ctrl-C stops replies, Ctrl-D ends the chat."
        )
        return CommandResult("\n".join(lines))

    def models(self, rest: str) -> CommandResult:
        """Tell the server's models, those that are asked marked."""
        asked = self._history.models
        names = [*asked, *(name for name in self._known() if name not in asked)]
        return CommandResult("\n".join(f"{'*' if name in asked else ' '} {name}" for name in names))

    def add(self, rest: str) -> CommandResult:
        """Ask a model too."""
        if not rest:
            raise UsageError("/add NAME: name a model; /models lists them")
        if rest not in self._history.models:
            self._history.models.append(rest)
        return self._who()

    def drop(self, rest: str) -> CommandResult:
        """Ask a model no more."""
        models = self._history.models
        if rest not in models:
            raise UsageError(f"'{rest}' is not asked; these are: {', '.join(models)}")
        if len(models) == 1:
            raise UsageError("the last model stays; add another one first")
        models.remove(rest)
        return self._who()

    def system(self, rest: str) -> CommandResult:
        """Change what the models are told first."""
        self._change(system=rest or None)
        return CommandResult("system prompt set" if rest else "no system prompt")

    def set(self, rest: str) -> CommandResult:
        """Change a setting of replies."""
        name, _, value = rest.partition(" ")
        settings = self._history.settings
        if name:
            known = [key for key in type(settings).model_fields if key != "system"]
            if name not in known:
                raise UsageError(unknown_name_message("setting", name, known))
            self._change(**{name: value.strip() or None})
        shown = self._history.settings.model_dump(exclude={"system"}, exclude_none=True)
        return CommandResult(", ".join(f"{key} {one}" for key, one in shown.items()))

    def again(self, rest: str) -> CommandResult:
        """Ask the last question again."""
        question = self._history.take_back()
        return CommandResult(question=question, text="" if question else "nothing has been asked")

    def undo(self, rest: str) -> CommandResult:
        """Forget the last question."""
        question = self._history.take_back()
        return CommandResult(
            "nothing has been asked" if question is None else f"forgotten: {question}"
        )

    def clear(self, rest: str) -> CommandResult:
        """Forget all."""
        self._history.turns.clear()
        return CommandResult("a new conversation")

    def save(self, rest: str) -> CommandResult:
        """Write the conversation into a file."""
        if not rest:
            raise UsageError("/save FILE: name a file that does not exist yet")
        path = Path(rest).expanduser()
        if path.exists():
            raise UsageError(f"{path} exists; name another file")
        write_whole(path, self._history.as_markdown())
        return CommandResult(f"written to {path}")

    def quit(self, rest: str) -> CommandResult:
        """End the chat."""
        return CommandResult(is_over=True)

    def _who(self) -> CommandResult:
        return CommandResult(f"asking {', '.join(self._history.models)}")

    def _change(self, **fields: str | None) -> None:
        settings = self._history.settings
        kept = settings.model_dump(exclude_none=True)
        given = {key: value for key, value in fields.items() if value is not None}
        for key in fields:
            kept.pop(key, None)
        try:
            self._history.settings = type(settings).parse({**kept, **given}, where="/set")
        except SettingError as error:
            raise UsageError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is typed, what it does."""

    usage: str
    sentence: str
    act: Callable[[Commands, str], CommandResult]


COMMANDS = {
    "help": Command("/help", "these lines", Commands.help),
    "models": Command("/models", "the server's models; * marks who is asked", Commands.models),
    "add": Command("/add NAME", "ask this model too, in a column of its own", Commands.add),
    "drop": Command("/drop NAME", "ask this model no more", Commands.drop),
    "system": Command("/system TEXT", "tell the models this first", Commands.system),
    "set": Command("/set NAME VALUE", "temperature, top_p, max_tokens or seed", Commands.set),
    "again": Command("/again", "ask the last question again", Commands.again),
    "undo": Command("/undo", "forget the last question and its replies", Commands.undo),
    "clear": Command("/clear", "begin a new conversation", Commands.clear),
    "save": Command("/save FILE", "write the conversation as Markdown", Commands.save),
    "quit": Command("/quit", "end the chat", Commands.quit),
}  # fmt: skip
