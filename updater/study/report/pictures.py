"""Every picture of a study by name: for the page, and as files.

Called by `updater.study.report.page` and `updater.study.report.outputs`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from updater.study.report import heat, plots, served
from updater.study.tabulated import Table

SCRATCH = "scratch"
"""The name of the arm that trains from scratch on everything, where none is given."""


@dataclass(frozen=True)
class Picture:
    """Its heading, what to know to read it, and how to draw it (None: nothing to draw). `spread`:
    what shows the intervals over seeds, as "Bands", where it shows some."""

    title: str
    how: str
    draw: Callable[[Table], Figure | None]
    spread: str = ""

    def explained(self, table: Table) -> str:
        """`how`, and what its intervals are: one seed has none."""
        if not self.spread or len(table.seeds) == 1:
            return self.how
        return f"{self.how} {self.spread} are 95 % intervals over seeds."


def pictures(scratch: str = SCRATCH) -> dict[str, Picture]:
    """Name -> picture, in the page's order."""
    return {
        "stream": Picture(
            "Accuracy over the stream",
            "After the first model and each update, the mean accuracy over all periods that had "
            "come by then.",
            plots.stream,
            "Bands",
        ),
        "cost": Picture(
            "Accuracy against cost",
            "Up and to the left is better. The dashed line joins the Pareto front: arms that no "
            "other beats in both.",
            plots.cost,
            "Bars",
        ),
        "forgetting": Picture(
            "Forgetting by period",
            "Best accuracy so far minus final accuracy, in points, mean over seeds. Dark is "
            "forgotten; below zero is gained. The last period can't be forgotten yet.",
            heat.forgetting,
        ),
        "ratio": Picture(
            "An update against scratch on everything",
            f"Each update in percent of the arm {scratch} with the same seed, by how many periods "
            "came before. Dotted: 97 % of its accuracy, a fifth of its steps.",
            lambda table: plots.ratio(table, scratch),
        ),
        "as_deployed": Picture(
            "What users would have had",
            "The deployed model's mean accuracy over all periods that had closed by then, learnt "
            "or not, mean over seeds. A hollow mark: not every seed's update was deployed.",
            served.as_deployed,
        ),
    }
