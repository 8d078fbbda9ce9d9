"""Every picture of a report by name: for the page, and as files for MLflow.

The drawing is in `matrix`, `intervals`, `panels` and `timelines`. Called by `page`
and the pipeline's publishing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from updater.report import style
from updater.report.data import ReportData
from updater.report.intervals import forgetting, gate_intervals
from updater.report.matrix import score_matrix
from updater.report.panels import accuracy_over_versions
from updater.report.timelines import as_deployed, training_curve

__all__ = [
    "FIGURES",
    "Picture",
    "accuracy_over_versions",
    "as_deployed",
    "forgetting",
    "gate_intervals",
    "save_all",
    "score_matrix",
    "training_curve",
]


@dataclass(frozen=True)
class Picture:
    """How to draw it (None: there is nothing to draw), and what it shows, in words."""

    draw: Callable[[ReportData], Figure | None]
    description: str


FIGURES = {
    "gate_intervals": Picture(gate_intervals, "The gate's comparisons with their intervals"),
    "score_matrix": Picture(score_matrix, "Accuracy of every version on every period"),
    "accuracy_over_versions": Picture(
        accuracy_over_versions, "Accuracy over versions for each period, with 95 % intervals"
    ),
    "as_deployed": Picture(as_deployed, "Accuracy that users had after each release"),
    "forgetting": Picture(forgetting, "Best score so far and present score for each period"),
    "training_curve": Picture(training_curve, "Training loss and penalty by step"),
}


def save_all(data: ReportData, folder: Path) -> list[Path]:
    """Every picture that has something to show is a PNG in `folder`, named by `FIGURES`.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for name, picture in FIGURES.items():
        figure = picture.draw(data)
        if figure is not None:
            path = folder / f"{name}.png"
            style.save(figure, path)
            saved.append(path)
    return saved
