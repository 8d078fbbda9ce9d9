"""The score matrix as a heatmap: versions down, periods across, the accuracy in each cell.

Called by `figures`.
"""

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from updater.report import style
from updater.report.data import ReportData, Version

_SCALE = LinearSegmentedColormap.from_list("accuracy", style.HEAT)
_LIGHTNESS_TURN = 0.55  # from here on up white text reads better; chosen by looking


def score_matrix(data: ReportData) -> Figure:
    """Every score there is. A period that a version has not learnt is set small and pale; what it
    learnt first is framed; the version of the report has a bar at its left."""
    rows, columns = len(data.versions), len(data.periods)
    width = max(30.0, min(84.0, 620 / max(1, columns)))
    height = 22.0 if rows <= 12 else 19.0
    with style.styled():
        figure = style.new_figure(150 + width * columns + 20, 110 + height * rows)
        axes = figure.add_subplot()
        for i, version in enumerate(data.versions):
            for j in range(columns):
                _cell(axes, data, version, (i, j), size=8.5 if width >= 40 else 7.5)
            _frame_what_is_new(axes, data, version, i)
        subject = [v.id for v in data.versions].index(data.version)
        axes.add_patch(
            Rectangle((-0.62, subject - 0.5), 0.08, 1, color=style.BLUE, lw=0, clip_on=False)
        )
        _label(axes, data, slanted=width < 60)
    return figure


def _cell(
    axes: Axes, data: ReportData, version: Version, place: tuple[int, int], size: float
) -> None:
    i, j = place
    cell = data.scores.get((version.id, data.periods[j]))
    learnt = data.periods[j] in version.learnt
    corner, inner = (j - 0.48, i - 0.47), (0.96, 0.94)
    if cell is None:
        axes.add_patch(Rectangle(corner, *inner, fc="none", ec=style.GRID, lw=0.8, ls=":"))
        axes.text(j, i, "–", ha="center", va="center", size=size, color=style.MUTED)
        return
    value = cell.accuracy
    if learnt:
        axes.add_patch(Rectangle(corner, *inner, fc=_SCALE(value), lw=0))
        colour = style.ON_DARK if value > _LIGHTNESS_TURN else style.ON_LIGHT
    else:
        axes.add_patch(Rectangle(corner, *inner, fc="none", ec=style.GRID, lw=0.8))
        colour, size = style.MUTED, size - 1
    axes.text(j, i, _number(value), ha="center", va="center", size=size, color=colour)


def _frame_what_is_new(axes: Axes, data: ReportData, version: Version, i: int) -> None:
    known = data.find(version.base).learnt if version.base is not None else ()
    for j, period in enumerate(data.periods):
        if period in version.learnt and period not in known:
            axes.add_patch(
                Rectangle((j - 0.45, i - 0.43), 0.9, 0.86, fc="none", ec=style.INK, lw=1.3)
            )


def _label(axes: Axes, data: ReportData, *, slanted: bool) -> None:
    axes.set_xlim(-0.7, len(data.periods) - 0.5)
    axes.set_ylim(len(data.versions) - 0.5, -0.5)
    names = [style.shortened(period, 24) for period in data.periods]
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


def _number(value: float) -> str:
    """Percent with one digit; 100 without, to stay narrow."""
    return "100" if value == 1 else f"{100 * value:.1f}"
