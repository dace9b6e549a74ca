"""Measures a model on held-out rows: loss, and the share of replies that are right.

settings     which score, how many rows, how long replies may be
rows         a file of rows to prompts, tokens to be scored, answers and options
replies      what counts as a right reply: pure functions of text
generate     greedy replies of a batch
likelihood   the log-probability that a model gives to the tokens of an answer
evaluate     all of it, batch after batch; what is done is not done again after a stop
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossamer.training.evaluation.measure import Evaluation, evaluate
    from gossamer.training.evaluation.settings import EvaluationSettings
    from gossamer.training.evaluation.tasks import EvalRow, EvalSet, load_eval_set

__all__ = [
    "EvalRow",
    "EvalSet",
    "Evaluation",
    "EvaluationSettings",
    "evaluate",
    "load_eval_set",
]

# Where each public name lives; imported when first used, since torch takes seconds to load.
_HOMES = {
    "EvalRow": "gossamer.training.evaluation.tasks",
    "EvalSet": "gossamer.training.evaluation.tasks",
    "Evaluation": "gossamer.training.evaluation.measure",
    "EvaluationSettings": "gossamer.training.evaluation.settings",
    "evaluate": "gossamer.training.evaluation.measure",
    "load_eval_set": "gossamer.training.evaluation.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer.training.evaluation' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
