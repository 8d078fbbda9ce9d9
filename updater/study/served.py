"""A replay's picture: what users would have had at each time, and the verdicts that led there.

Called by `updater.study.pictures`.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.study.comparison import estimate
from updater.study.drawing import Mark, marks, name_lines, new_figure, period_ticks, tidy
from updater.study.measures import over_stream, served
from updater.study.replay import replayed
from updater.study.tabulated import Table


def as_deployed(table: Table) -> Figure | None:
    """Mean accuracy that users had over all periods that had closed by then, learnt or not: each
    arm a step line, the mean over seeds. A hollow mark is an update of which not every seed's was
    deployed. Arms without updates to judge (frozen) are drawn beside them. None where nothing was
    replayed."""
    looks = marks(table)
    arms = {arm.name: arm.finished for arm in table.arms if arm.name in looks}
    if not any(replayed(run) for runs in arms.values() for run in runs):
        return None
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        ends = {}
        for name, runs in arms.items():
            means = _means([over_stream(served(run)) for run in runs])
            flags = [[stage.deployed for stage in run.stages] for run in runs]
            _line(axes, means, [all(column) for column in zip(*flags, strict=True)], looks[name])
            last = means[-1]
            if last is not None:
                ends[name] = (len(means) - 0.5, 100 * last)
        run = next(iter(arms.values()))[0]
        period_ticks(axes, ["first model", *(f"+ {stage.period}" for stage in run.stages[1:])])
        axes.set_ylabel("accuracy that users had, %")
        axes.set_xlim(-0.2, len(run.stages) - 0.5)
        axes.set_ylim(axes.get_ylim())
        tidy(axes)
        name_lines(axes, ends, looks)
    return figure


def _means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    columns = zip(*seeds, strict=True)
    return [_mean([value for value in column if value is not None]) for column in columns]


def _mean(values: Sequence[float]) -> float | None:
    return estimate(values).mean if values else None


def _line(axes: Axes, means: Sequence[float | None], deployed: Sequence[bool], look: Mark) -> None:
    known = [(x, 100 * y) for x, y in enumerate(means) if y is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    axes.step(
        [*xs, xs[-1] + 0.5], [*ys, ys[-1]], where="post", color=look.colour, ls=look.dash, lw=1.6
    )
    for x, y in known:
        fill = look.colour if deployed[x] else style.SURFACE
        axes.plot([x], [y], look.marker, ms=5, mfc=fill, mec=look.colour)
