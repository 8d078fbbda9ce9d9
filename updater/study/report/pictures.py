"""Every picture of a study by name: for the page, and as files.

Called by `updater.study.report.page` and `updater.study.report.outputs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from updater.study.report import compression_plots, heat, plots, served
from updater.study.report.looks import not_compared, not_drawn, not_forgotten
from updater.study.tabulated import Table


@dataclass(frozen=True)
class Picture:
    """Its heading, what to know to read it (with {scratch} for `Table.scratch`), and how to draw it
    (None: nothing to draw). `spread`: what shows the intervals over seeds, as "Bands", where it
    shows some. `notes`: what each says of the table is to be known as well, "" where that is
    nothing."""

    title: str
    how: str
    draw: Callable[[Table], Figure | None]
    spread: str = ""
    notes: tuple[Callable[[Table], str], ...] = ()

    def explained(self, table: Table) -> str:
        """`how`, what its intervals are (one seed has none), and the notes."""
        parts = [self.how.format(scratch=table.scratch)]
        if self.spread and len(table.seeds) > 1:
            parts.append(f"{self.spread} are 95 % intervals over seeds, cut at 0 and 100 %.")
        return " ".join([*parts, *(said for note in self.notes if (said := note(table)))])


PICTURES: Mapping[str, Picture] = {
    "stream": Picture(
        "Accuracy over the stream",
        "After the first model and each update, the mean accuracy over all periods that had come "
        "by then.",
        plots.stream,
        "Bands",
        (not_drawn,),
    ),
    "cost": Picture(
        "Accuracy against cost",
        "Up and to the left is better. The dashed line joins the Pareto front: of all arms, those "
        "that no other beats in both.",
        plots.cost,
        "Bars",
        (not_compared, not_drawn),
    ),
    "forgetting": Picture(
        "Forgetting by period",
        "Best accuracy so far minus final accuracy, in points, mean over seeds. Dark is forgotten; "
        "below zero is gained. The last period can't be forgotten yet.",
        heat.forgetting,
        notes=(not_forgotten,),
    ),
    "ratio": Picture(
        "An update against scratch on everything",
        "Each update in percent of the arm {scratch} with the same seed, by how many periods came "
        "before. Dotted: 97 % of its accuracy, a fifth of its steps.",
        plots.ratio,
        notes=(not_drawn,),
    ),
    "as_deployed": Picture(
        "What users would have had",
        "The deployed model's mean accuracy over all periods that had closed by then, learnt or "
        "not, mean over seeds. A hollow mark: not every seed's update was deployed.",
        served.as_deployed,
        notes=(not_drawn,),
    ),
    "sparsity": Picture(
        "Accuracy against how much goes",
        "Final average accuracy of what is left, by method, as it is and after it has learnt "
        "again. Dashed: the uncompressed model.",
        compression_plots.sparsity,
        "Bands",
    ),
    "bytes": Picture(
        "Accuracy against bytes",
        "Up and to the left is better. Bytes of the weight files, on the mean over seeds. Hollow: "
        "a model with single weights that are zero, which ships as large as the uncompressed one; "
        "it stands where the others would fill as many bytes, without a word on where they are. "
        "Triangles have learnt again. The dashed line joins the Pareto front of what ships.",
        compression_plots.size,
        "Bars",
    ),
    "compressed": Picture(
        "Compressed, period by period",
        "Accuracy on each period in percent, mean over seeds; dark is right.",
        heat.compressed,
    ),
    "gone": Picture(
        "Which experts and layers went",
        "With how many of the seeds, in percent, counted from 0; of those that went with any.",
        heat.gone,
    ),
}
"""By name, in the page's order."""
