"""The score matrix as a heatmap: versions down, periods across; in numbers, or all of it at once.

Called by `figures`.
"""

import dataclasses
import math

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from updater.report import focus, style
from updater.report.data import ReportData, Version

_LONGEST_NAME = 24  # characters


def score_matrix(data: ReportData) -> Figure:
    """The scores of `focus.rows`. A period that a version has not learnt is set small and without
    colour; what it learnt first is framed; the version of the report has a bar at its left."""
    data = dataclasses.replace(data, versions=focus.rows(data))
    rows, columns = len(data.versions), len(data.periods)
    width = max(30.0, min(84.0, 580 / max(1, columns)))
    height = 22.0 if rows <= 12 else 19.0
    longest = max(len(style.shortened(p, _LONGEST_NAME)) for p in data.periods)
    slanted = width < 5.5 * longest
    heading = 24 + 3.9 * longest if slanted else 24.0
    with style.styled():
        figure = style.new_figure(140 + width * columns, heading + height * rows + 12)
        axes = figure.add_subplot()
        _fill(axes, data)
        for i, version in enumerate(data.versions):
            for j, period in enumerate(data.periods):
                _number(axes, data, version, period, (i, j), 8.5 if width >= 40 else 7.5)
        subject = [v.id for v in data.versions].index(data.version)
        axes.add_patch(
            Rectangle((-0.62, subject - 0.5), 0.08, 1, color=style.BLUE, lw=0, clip_on=False)
        )
        _label(axes, data, slanted=slanted)
    return figure


def overview(data: ReportData) -> Figure | None:
    """Every score of every version in one picture, without numbers: where it turns pale, something
    was forgotten. None where the numbers of all fit."""
    if not focus.is_cut(data) and len(focus.rows(data)) == len(data.versions):
        return None
    cells = [[_seen(data, version, period) for period in data.periods] for version in data.versions]
    with style.styled():
        figure = style.new_figure(style.WIDTH, min(520.0, 90 + 4.0 * len(cells)))
        axes = figure.add_subplot()
        shown = axes.imshow(
            cells, cmap=style.SCALE, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        here = [version.id for version in data.versions].index(data.version)
        axes.plot([-0.5], [here], ">", color=style.BLUE, ms=7, clip_on=False)
        _thin_ticks(axes, data)
        axes.set_xlabel("period")
        axes.set_ylabel("version")
        bar = figure.colorbar(shown, ax=axes, pad=0.01, aspect=30)
        bar.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
        for part in (axes, bar.ax):
            for spine in part.spines.values():
                spine.set_visible(False)
    return figure


def _seen(data: ReportData, version: Version, period: str) -> float:
    """The accuracy on what the version has learnt; else nothing, which is left white."""
    value = data.accuracy(version.id, period) if period in version.learnt else None
    return math.nan if value is None else value


def _thin_ticks(axes: Axes, data: ReportData) -> None:
    across = math.ceil(len(data.periods) / 12)
    down = math.ceil(len(data.versions) / 14)
    columns, lines = range(0, len(data.periods), across), range(0, len(data.versions), down)
    axes.set_xticks(columns, [style.shortened(data.periods[i], 12) for i in columns])
    axes.set_yticks(lines, [style.shortened(data.versions[i].id, 12) for i in lines])
    axes.tick_params(length=0, labelsize=7.5)


def _fill(axes: Axes, data: ReportData) -> None:
    """The cells without their numbers: coloured, framed, or empty boxes."""
    coloured, colours, frames, frame_colours, boxes = [], [], [], [], []
    for i, version in enumerate(data.versions):
        for j, period in enumerate(data.periods):
            value = data.accuracy(version.id, period)
            if value is None or period not in version.learnt:
                boxes.append(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94))
                continue
            coloured.append(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94))
            colours.append(style.SCALE(value))
            if period in version.new:
                frames.append(Rectangle((j - 0.43, i - 0.4), 0.86, 0.8))
                frame_colours.append(style.on(style.SCALE(value)))
    axes.add_collection(PatchCollection(coloured, facecolors=colours, linewidths=0))
    axes.add_collection(PatchCollection(boxes, facecolors="none", edgecolors=style.GRID, lw=0.8))
    axes.add_collection(
        PatchCollection(frames, facecolors="none", edgecolors=frame_colours, linewidths=1.1)
    )


def _number(
    axes: Axes, data: ReportData, version: Version, period: str, place: tuple[int, int], size: float
) -> None:
    value, learnt = data.accuracy(version.id, period), period in version.learnt
    i, j = place
    colour = style.on(style.SCALE(value)) if learnt and value is not None else style.MUTED
    axes.text(
        j,
        i,
        _percent(value),
        ha="center",
        va="center",
        size=size if learnt else size - 1,
        color=colour,
        in_layout=False,
    )


def _label(axes: Axes, data: ReportData, *, slanted: bool) -> None:
    axes.set_xlim(-0.7, len(data.periods) - 0.5)
    axes.set_ylim(len(data.versions) - 0.5, -0.5)
    names = [style.shortened(period, _LONGEST_NAME) for period in data.periods]
    axes.set_xticks(range(len(names)), names, rotation=45 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(data.versions)), [_row_name(data, v) for v in data.versions])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.xaxis.set_ticks_position("none")
    axes.tick_params(axis="both", labelcolor=style.INK, pad=5)
    axes.get_yticklabels()[[v.id for v in data.versions].index(data.version)].set_fontweight("bold")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _row_name(data: ReportData, version: Version) -> str:
    state = ""
    if version.id == data.deployed:
        state = " · deployed"
    elif version.was_deployed:
        state = " · was deployed"
    elif version.verdict == "rejected":
        state = " · rejected"
    elif version.verdict == "review":
        state = " · in review"
    return f"version {style.shortened(version.id, 12)}{state}"


def _percent(value: float | None) -> str:
    """Percent with one digit; 100 without, to stay narrow."""
    if value is None:
        return "–"
    return "100" if value == 1 else f"{100 * value:.1f}"
