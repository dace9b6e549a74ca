"""One engine with a good adapter of every kind, and the verdict on what hostile ones do to it."""

import logging
import resource
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from drafts import read_draft
from engine_case import Collector, ask, check_idle, start
from kinds_case import NAMES, Kinds
from mutate_adapter import HostileAdapter

from gossamer.errors import GossamerError, ServingError
from gossamer.serving.core.messages import Failed
from gossamer.serving.engine.engine import Engine
from gossamer.serving.runner.adapter_loader import AdapterLoader

LONGEST_MESSAGE = 1000
PROMPTS = ([5, 6, 7, 8, 9], list(range(40, 100)))
AT_ONCE = 6


def _start(model: Path, root: Path) -> tuple[Engine, AdapterLoader]:
    """An engine, and what reads its adapters."""
    made: list[AdapterLoader] = []
    make = AdapterLoader.__init__

    def remember(loader: AdapterLoader, *given: Any, **named: Any) -> None:
        make(loader, *given, **named)
        made.append(loader)

    with patch.object(AdapterLoader, "__init__", remember):
        engine = start(model, root, num_blocks=300)
    return engine, made[0]


class Rig:
    """A model, good adapters and what each says when it is asked alone."""

    def __init__(self, folder: Path) -> None:
        kinds = Kinds(folder)
        self.root = kinds.adapters
        self.goods = [read_draft(self.root / name) for name in NAMES]
        self.engine, self.loader = _start(kinds.model, self.root)
        self.errors = ErrorLog()
        logging.getLogger("gossamer").addHandler(self.errors)
        self._alone: dict[tuple[str | None, int], list[int]] = {}
        self._round = 0
        for name in (None, *NAMES):
            for number, prompt in enumerate(PROMPTS):
                one = ask(self.engine, prompt, name, max_tokens=12)
                one.wait()
                self._alone[name, number] = one.tokens

    def close(self) -> None:
        """Stop."""
        logging.getLogger("gossamer").removeHandler(self.errors)
        self.engine.shutdown()

    def serve(self, cases: list[HostileAdapter]) -> list[str]:
        """Ask hostile adapters and good neighbours in one batch; what came of each hostile one."""
        names = []
        for number, case in enumerate(cases):
            # The same names again and again: new files under an old name.
            folder = self.root / f"hostile-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            case.write(folder)
            names.append(folder.name)
        told = "\n".join(map(str, cases))
        keys = list(self._alone)
        chosen = [keys[(self._round * 3 + n) % len(keys)] for n in range(3)]
        self._round += 1
        good = [ask(self.engine, PROMPTS[n], name, max_tokens=12) for name, n in chosen]
        outcomes = [self._ask(case, name) for case, name in zip(cases, names, strict=True)]
        for key, one in zip(chosen, good, strict=True):
            one.wait()
            assert len(one.finals) == 1, told
            assert one.tokens == self._alone[key], f"another answer of {key} beside\n{told}"
        results = [
            self._judge(case, outcome) for case, outcome in zip(cases, outcomes, strict=True)
        ]
        assert not self.errors.found, f"{self.errors.found}\n{told}"
        return results

    def check_idle(self, told: str) -> None:
        """Nothing is left of all that."""
        try:
            check_idle(self.engine)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{told}") from error

    def _ask(self, case: HostileAdapter, name: str) -> Collector | GossamerError:
        number = int(case.seed.split("/")[1])
        adapter = f"{name}:0.5+{NAMES[0]}:0.5" if number % 7 == 0 else name
        try:
            return ask(self.engine, PROMPTS[number % 2], adapter, max_tokens=4)
        except GossamerError as error:
            return error

    def _judge(self, case: HostileAdapter, outcome: Collector | GossamerError) -> str:
        if isinstance(outcome, GossamerError):
            return refusal_of(case, outcome, self.root)
        outcome.wait()
        assert len(outcome.finals) == 1, case
        final = outcome.finals[0]
        if isinstance(final, Failed):
            return refusal_of(case, final.error, self.root)
        assert len(outcome.tokens) == final.completion_tokens == 4, case
        return "served"


def refusal_of(case: object, error: BaseException, root: Path) -> str:
    """The class of an error that is fit for a client; fails the test for any other."""
    message = str(error)
    assert isinstance(error, GossamerError), f"{case}\n{type(error).__name__}: {message}"
    assert "\n" not in message, f"{case}\n{message!r}"
    assert "\r" not in message, f"{case}\n{message!r}"
    assert 0 < len(message) <= LONGEST_MESSAGE, f"{case}\n{len(message)}: {message[:200]}"
    assert message.isprintable(), f"{case}\n{message!r}"
    assert str(root) not in message, f"{case}\n{message}"
    assert type(error) is not ServingError, f"{case}\n{message}"
    assert "cannot be read:" not in message, f"{case}\n{message}"
    return type(error).__name__


class ErrorLog(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        cause = record.exc_info[1] if record.exc_info else None
        self.found.append(f"{record.getMessage()}: {cause!r}")


def peak_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
