"""How good a model is on held-out rows: loss, and the share of replies that are right.

settings     which score, how many rows, how long replies may be
rows         a file of rows to prompts, tokens to be scored, answers and options
replies      what counts as a right reply: pure functions of text
generate     greedy replies of a batch
likelihood   the log-probability that a model gives to the tokens of an answer
evaluate     all of it, batch after batch; what is done is not done again after a stop
"""

from gossamer.training.evaluation.measure import Evaluation, evaluate
from gossamer.training.evaluation.rows import EvalRow, EvalSet, load_eval_set
from gossamer.training.evaluation.settings import EvaluationSettings

__all__ = [
    "EvalRow",
    "EvalSet",
    "Evaluation",
    "EvaluationSettings",
    "evaluate",
    "load_eval_set",
]
