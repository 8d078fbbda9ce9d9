"""Pictures along time: what users had after each release, and the training curve.

Called by `figures`.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.report.data import ReportData, known_at

_MOST_POINTS = 400  # of a training curve: more can't be seen at this width


def as_deployed(data: ReportData) -> Figure | None:
    """What users had after each promotion and rollback: the mean over all periods that had been
    served by then, and the weakest of them. None where nothing was ever deployed.

    A mean is over the periods that have a score; where one lacks, the point is hollow.
    """
    if not data.deployments:
        return None
    served = known_at(data.deployments, data)
    found = [
        [data.accuracy(d.version, p) for p in periods]
        for d, periods in zip(data.deployments, served, strict=True)
    ]
    scored = [[100 * s for s in row if s is not None] for row in found]
    with style.styled():
        figure = style.new_figure(style.WIDTH, 240)
        axes = figure.add_subplot()
        means = [sum(row) / len(row) if row else math.nan for row in scored]
        worsts = [min(row) if row else math.nan for row in scored]
        xs = range(len(scored) + 1)
        for values, colour, dash, name in (
            (means, style.BLUE, "-", "mean over the periods served so far"),
            (worsts, style.BAD, (0, (3, 1.5)), "weakest of them"),
        ):
            axes.step(
                xs, [*values, values[-1]], where="post", color=colour, lw=2, ls=dash, label=name
            )
            for x, value in enumerate(values):
                whole = None not in found[x]
                fill = colour if whole else style.SURFACE
                axes.plot([x], [value], "o", ms=5, mfc=fill, mec=colour)
        _mark_rollbacks(axes, data)
        axes.set_xlim(-0.25, len(scored) + 0.05)
        axes.set_ylim(-4, 104)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        _event_ticks(axes, data)
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _mark_rollbacks(axes: Axes, data: ReportData) -> None:
    back = [x for x, d in enumerate(data.deployments) if d.kind == "rolled_back"]
    for x in back:
        axes.axvline(x, color=style.UNSURE, lw=1.1, ls=":")
    if back:
        axes.plot([], [], color=style.UNSURE, lw=1.1, ls=":", label="rolled back")


def _event_ticks(axes: Axes, data: ReportData) -> None:
    crowded = len(data.deployments) > 9
    stride = math.ceil(len(data.deployments) / 30)
    shown = range(0, len(data.deployments), stride)
    names = []
    for x in shown:
        event = data.deployments[x]
        day, clock = event.at[:10], event.at[11:16]
        name = f"version {style.shortened(event.version, 10)}"
        names.append(
            f"v{style.shortened(event.version, 8)} {day}" if crowded else f"{name}\n{day}\n{clock}"
        )
    axes.set_xticks(list(shown), names, rotation=50 if crowded else 0)
    for label in axes.get_xticklabels():
        label.set(
            ha="right" if crowded else "left", rotation_mode="anchor" if crowded else "default"
        )
        label.set_fontsize(7.5)


def training_curve(data: ReportData) -> Figure | None:
    """Loss by optimizer step, and below it the penalty where there was one. None without points."""
    losses = {
        name: points
        for name, points in data.curve.items()
        if name.rpartition("/")[2].startswith("loss") and points
    }
    penalty = next((p for n, p in data.curve.items() if n.rpartition("/")[2] == "penalty"), ())
    has_penalty = any(value > 0 for _, value in penalty)
    if not losses:
        return None
    with style.styled():
        figure = style.new_figure(style.WIDTH, 310 if has_penalty else 210)
        grid = figure.subplots(
            1 + has_penalty, 1, squeeze=False, sharex=True, height_ratios=[2, 1][: 1 + has_penalty]
        )
        _losses(grid[0, 0], losses)
        if has_penalty:
            axes = grid[1, 0]
            axes.plot(*_thinned(penalty), color=style.UNSURE, lw=1.4)
            axes.set_ylabel("penalty")
            _plain(axes)
        grid[-1, 0].set_xlabel("optimizer step")
    return figure


_CURVES = {
    "loss": (style.BLUE, "-", "all examples"),
    "loss_new": (style.BAD, (0, (4, 1.5)), "new examples"),
    "loss_rehearsed": (style.GOOD, (0, (1.5, 1.2)), "rehearsed examples"),
}


def _losses(axes: Axes, losses: dict[str, tuple[tuple[int, float], ...]]) -> None:
    for name, points in losses.items():
        short = name.rpartition("/")[2]
        colour, dash, label = _CURVES.get(short, (style.MUTED, "-", short))
        marker = "o" if len(points) == 1 else ""
        axes.plot(*_thinned(points), color=colour, ls=dash, lw=1.4, marker=marker, label=label)
    axes.set_ylabel("loss, nats per token")
    if len(losses) > 1:
        axes.legend()
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Means of runs of points, at most `_MOST_POINTS` of them, at the runs' last steps."""
    run = math.ceil(len(points) / _MOST_POINTS)
    runs = [points[i : i + run] for i in range(0, len(points), run)]
    return [r[-1][0] for r in runs], [sum(v for _, v in r) / len(r) for r in runs]
