"""Scores of models on tasks: as a table, as a file, as what is drawn."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """What one model has reached on one task, by one measure."""

    model: str
    task: str
    metric: str
    value: float
    error: float | None
    """Standard error of the value; None where the harness knows none."""
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of one evaluation."""

    models: tuple[str, ...]
    """In the order of the table; the base model first."""
    scores: tuple[Score, ...]
    left_out: tuple[str, ...]
    """Adapters that the engine has refused."""
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The tasks and measures, in the order in which they came."""
        return list(dict.fromkeys((each.task, each.metric) for each in self.scores))

    def at(self, model: str, column: tuple[str, str]) -> Score | None:
        """Return the score of `model` in a column, if there is one."""
        for each in self.scores:
            if (each.model, each.task, each.metric) == (model, *column):
                return each
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "settings": self.settings,
            "versions": self.versions,
            "models": list(self.models),
            "left_out": list(self.left_out),
            "scores": [asdict(each) for each in self.scores],
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells of the table: a row for each model."""
        columns = self.columns
        headings = ["model", *(f"{task} {metric}" for task, metric in columns)]
        cells = [
            [model, *(_cell(self.at(model, column)) for column in columns)] for model in self.models
        ]
        return headings, cells

    def markdown(self) -> str:
        """Return the table as Markdown."""
        headings, cells = self.rows()
        lines = [headings, ["---", *("---:" for _ in headings[1:])], *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    text = f"{score.value:.4f}"
    return text if score.error is None else f"{text} ± {score.error:.4f}"


def scores_of(model: str, results: dict[str, Any]) -> list[Score]:
    """Read the scores of `model` from what the harness gives.

    Its names of measures end with the filter that answers went through, `none` being no filter.
    """
    found = []
    higher = results.get("higher_is_better", {})
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not filtered or metric.endswith("_stderr") or not is_number:
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            known = error if isinstance(error, int | float) and error == error else None
            better = higher.get(task, {}).get(metric)
            found.append(Score(model, task, name, float(value), known, better))
    return found
