"""Runs an evaluation, from its settings to the scores of all models."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from gossamer.errors import UsageError, cut, one_line, unknown_name_message
from gossamer.evaluation.backend import Answers, GossamerLM
from gossamer.evaluation.results import Score, Scores, scores_of
from gossamer.evaluation.scorer import Model, Scorer
from gossamer.evaluation.settings import EvalSettings
from gossamer.files import replacing
from gossamer.llm import LLM
from gossamer.version import VERSION

RESAMPLES = 1_000
"""Samples of the standard errors that have no formula."""


def evaluate(settings: EvalSettings, tell: Callable[[str], None]) -> Scores:
    """Score the base model and all adapters on all tasks; refused adapters are told of.

    Raises `AdapterNotFoundError` for a folder without adapters, `UsageError` for a task that does
    not exist or cannot be asked, and what the engine refuses the model for.
    """
    settings.check()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = _manager(settings)
    names = _names(settings.tasks, manager)
    chosen = {"memory_gib", "max_context", "device", "dtype", "threads", "tensor_parallel"}
    options = {k: v for k, v in settings.model_dump().items() if k in chosen and v is not None}
    with LLM(settings.model, adapters=settings.adapters or None, **options) as llm:
        models: list[Model] = [None]
        left_out: list[str] = []
        for status in llm.engine.adapters():
            if status.state == "refused":
                left_out.append(status.name)
                tell(f"{status.name} is left out: {status.problem}")
            elif status.alias_of is None:
                models.append(status.name)
        answers = Answers(Scorer(llm, models))
        found: list[Score] = []
        shown = [model or llm.engine.model_name for model in models]
        for model, name in zip(models, shown, strict=True):
            tell(f"{name}: {', '.join(settings.tasks)}")
            backend = GossamerLM(answers, model, llm.engine.tokenizer, settings.seed)
            found += scores_of(name, _results(settings, backend, names, manager))
    scores = Scores(
        tuple(shown),
        tuple(found),
        tuple(left_out),
        settings.model_dump(mode="json"),
        {"gossamer": VERSION, "lm-eval": lm_eval.__version__},
    )
    if settings.output is not None:
        write(scores, settings.output)
    return scores


def check_tasks(settings: EvalSettings) -> None:
    """Raise `UsageError` for a task or a folder of tasks that does not exist."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _names(settings.tasks, _manager(settings))


def write(scores: Scores, folder: Path) -> None:
    """Write the table, the numbers and the picture to `folder`."""
    from gossamer.evaluation.picture import draw

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "scores.json") as path:
        path.write_text(json.dumps(scores.as_dict(), indent=2) + "\n", "utf-8")
    with replacing(folder / "scores.md") as path:
        path.write_text(scores.markdown(), "utf-8")
    draw(scores, folder / "scores.png")


def _manager(settings: EvalSettings) -> TaskManager:
    for folder in settings.include:
        if not folder.is_dir():
            raise UsageError(f"--include: {cut(str(folder))} is no folder")
    # To look through the harness's own thousands takes seconds.
    knows_own = not all(task.endswith((".yaml", ".yml")) for task in settings.tasks)
    return TaskManager(include_path=list(settings.include), include_defaults=knows_own)


def _names(tasks: Sequence[str], manager: TaskManager) -> list[str]:
    """Tasks as the harness finds them: names, and whole paths of files."""
    found = []
    for task in tasks:
        if task.endswith((".yaml", ".yml")):
            path = Path(task).absolute()
            if not path.is_file():
                raise UsageError(f"--tasks: there is no file {cut(str(path))}")
            found.append(str(path))
        else:
            matching = manager.match_tasks([task])
            if not matching:
                raise UsageError(unknown_name_message("task", task, manager.all_tasks))
            found += matching
    return found


def _results(
    settings: EvalSettings, backend: GossamerLM, names: list[str], manager: TaskManager
) -> dict[str, Any]:
    results: dict[str, Any] | None = lm_eval.simple_evaluate(
        model=backend,
        tasks=list(names),
        task_manager=manager,
        num_fewshot=settings.few_shot,
        limit=settings.limit,
        apply_chat_template=settings.chat,
        bootstrap_iters=RESAMPLES,
        log_samples=False,
        fewshot_random_seed=settings.seed,
    )
    if results is None:
        raise UsageError(f"the harness gives no results for {one_line(', '.join(names))}")
    return results
