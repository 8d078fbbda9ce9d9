"""Every picture of a report by name: for the page, and as files for MLflow.

The drawing is in `matrix`, `intervals`, `panels`, `timelines` and `removed`. Called by `page`
and the pipeline's publishing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from updater.report import style
from updater.report.data import ReportData
from updater.report.focus import focused
from updater.report.intervals import forgetting, gate_intervals
from updater.report.matrix import overview, score_matrix
from updater.report.panels import accuracy_over_versions
from updater.report.removed import what_went
from updater.report.timelines import as_deployed, training_curve

__all__ = [
    "FIGURES",
    "Picture",
    "accuracy_over_versions",
    "as_deployed",
    "drawn",
    "forgetting",
    "gate_intervals",
    "overview",
    "save_all",
    "score_matrix",
    "training_curve",
    "what_went",
]


@dataclass(frozen=True)
class Picture:
    """How to draw it (None: there is nothing to draw), and what it shows, in words. All but one
    are of what `focused` leaves."""

    draw: Callable[[ReportData], Figure | None]
    description: str


FIGURES = {
    "gate_intervals": Picture(gate_intervals, "The gate's comparisons with their intervals"),
    "what_went": Picture(what_went, "What compression took away, layer by layer"),
    "score_matrix": Picture(score_matrix, "Accuracy of versions on periods"),
    "overview": Picture(overview, "Accuracy of every version on every period, as colours"),
    "accuracy_over_versions": Picture(
        accuracy_over_versions, "Accuracy over versions for each period, with 95 % intervals"
    ),
    "as_deployed": Picture(as_deployed, "Accuracy that users had after each release"),
    "forgetting": Picture(forgetting, "Best score so far and present score for each period"),
    "training_curve": Picture(training_curve, "Training loss and penalty by step"),
}


def drawn(data: ReportData) -> Iterator[tuple[str, Picture, Figure]]:
    """Every picture that has something to show, by its name."""
    few = focused(data)
    for name, picture in FIGURES.items():
        figure = picture.draw(data if picture.draw is overview else few)
        if figure is not None:
            yield name, picture, figure


def save_all(data: ReportData, folder: Path) -> list[Path]:
    """Every picture that has something to show is a PNG in `folder`, named by `FIGURES`.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for name, _, figure in drawn(data):
        path = folder / f"{name}.png"
        style.save(figure, path)
        saved.append(path)
    return saved
