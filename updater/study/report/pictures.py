"""Every picture of a study by name: for the page, and as files.

Called by `updater.study.report.page` and `updater.study.report.outputs`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from updater.study.report import heat, plots, served
from updater.study.report.looks import not_compared, not_drawn
from updater.study.tabulated import Table

SCRATCH = "scratch"
"""The name of the arm that trains from scratch on everything, where none is given."""


@dataclass(frozen=True)
class Picture:
    """Its heading, what to know to read it, and how to draw it (None: nothing to draw). `spread`:
    what shows the intervals over seeds, as "Bands", where it shows some. `notes`: what each says of
    the table is to be known as well, "" where that is nothing."""

    title: str
    how: str
    draw: Callable[[Table], Figure | None]
    spread: str = ""
    notes: tuple[Callable[[Table], str], ...] = ()

    def explained(self, table: Table) -> str:
        """`how`, what its intervals are (one seed has none), and the notes."""
        parts = [self.how]
        if self.spread and len(table.seeds) > 1:
            parts.append(f"{self.spread} are 95 % intervals over seeds, cut at 0 and 100 %.")
        return " ".join([*parts, *(said for note in self.notes if (said := note(table)))])


def pictures(scratch: str = SCRATCH) -> dict[str, Picture]:
    """Name -> picture, in the page's order."""
    undrawn = partial(not_drawn, scratch=scratch)
    return {
        "stream": Picture(
            "Accuracy over the stream",
            "After the first model and each update, the mean accuracy over all periods that had "
            "come by then.",
            partial(plots.stream, scratch=scratch),
            "Bands",
            (undrawn,),
        ),
        "cost": Picture(
            "Accuracy against cost",
            "Up and to the left is better. The dashed line joins the Pareto front: of all arms, "
            "those that no other beats in both.",
            partial(plots.cost, scratch=scratch),
            "Bars",
            (not_compared, undrawn),
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
            partial(plots.ratio, scratch=scratch),
            notes=(undrawn,),
        ),
        "as_deployed": Picture(
            "What users would have had",
            "The deployed model's mean accuracy over all periods that had closed by then, learnt "
            "or not, mean over seeds. A hollow mark: not every seed's update was deployed.",
            partial(served.as_deployed, scratch=scratch),
            notes=(undrawn,),
        ),
    }
