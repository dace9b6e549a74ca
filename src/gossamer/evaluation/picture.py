"""Draws `scores.png`: models by tasks, each column coloured from its worst score to its best."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gossamer.evaluation.results import Score, Scores
from gossamer.files import replacing


def draw(scores: Scores, path: Path) -> None:
    """Draw the table as cells with their values; the best of each column is bold."""
    columns = scores.columns
    width = 2.5 + 1.3 * len(columns)
    figure = Figure(figsize=(width, 1.4 + 0.42 * len(scores.models)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = [[_goodness(scores, model, column) for column in columns] for model in scores.models]
    axes.imshow(colours, cmap="YlGnBu", vmin=0.0, vmax=1.6, aspect="auto")
    for row, model in enumerate(scores.models):
        for place, column in enumerate(columns):
            score = scores.at(model, column)
            if score is not None:
                is_best = colours[row][place] == 1.0
                axes.text(
                    place, row, f"{score.value:.3f}", ha="center", va="center",
                    fontweight="bold" if is_best else "normal",
                )  # fmt: skip
    axes.set_xticks(range(len(columns)), [f"{task}\n{metric}" for task, metric in columns])
    axes.set_yticks(range(len(scores.models)), scores.models)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=150, format="png")


def _goodness(scores: Scores, model: str, column: tuple[str, str]) -> float:
    """From 0, the worst score of a column, to 1, the best."""
    score = scores.at(model, column)
    found = [_signed(each) for each in scores.scores if (each.task, each.metric) == column]
    low, high = min(found), max(found)
    if score is None or low == high:
        return 0.0
    return (_signed(score) - low) / (high - low)


def _signed(score: Score) -> float:
    return -score.value if score.higher_is_better is False else score.value
