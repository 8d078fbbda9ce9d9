"""Pictures of differences: the gate's comparisons with their bounds, and what was forgotten.

Called by `figures`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater import metrics
from updater.report import style
from updater.report.data import ReportData

_MARK = {
    "passed": ("o", style.GOOD),
    "failed": ("X", style.BAD),
    "inconclusive": ("D", style.UNSURE),
}
_ROW = 19.0


def gate_intervals(data: ReportData) -> Figure | None:
    """Each comparison of the gate: the difference in points with its bounds, beside the margin.

    Past periods and the new one have an axis each, for a new period gains far more than an old one
    loses. None without comparisons.
    """
    judgement = data.judgement
    if judgement is None or not judgement.comparisons:
        return None
    past = [c for c in judgement.comparisons if c["role"] == "past"]
    new = [c for c in judgement.comparisons if c["role"] == "new"]
    parts = [part for part in (new, past) if part]
    heights = [_ROW * len(part) + 40 for part in parts]
    with style.styled():
        figure = style.new_figure(style.WIDTH, sum(heights))
        rows = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)
        for axes, part in zip(rows[:, 0], parts, strict=True):
            _forest(axes, part, judgement.margin_fraction if part is past else None)
    return figure


def _forest(axes: Axes, comparisons: Sequence[Mapping[str, Any]], margin: float | None) -> None:
    for row, c in enumerate(comparisons):
        mark, colour = _MARK[c["result"]]
        low, here, high = (100 * c[key] for key in ("low", "difference", "high"))
        axes.plot([low, high], [row, row], color=colour, lw=2.2, solid_capstyle="butt", alpha=0.55)
        axes.plot([here], [row], mark, color=colour, ms=6.5, mec=style.SURFACE, mew=0.8)
        axes.annotate(
            style.signed(here),
            (max(high, here), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=colour,
        )
    axes.axvline(0, color=style.MUTED, lw=0.9)
    if margin is not None:
        axes.axvline(-100 * margin, color=style.BAD, lw=1.2, ls=(0, (4, 2)))
        axes.axvspan(-1000, -100 * margin, color=style.BAD, alpha=0.07, lw=0)
        axes.set_title("Past periods: must stay right of the dashed margin", color=style.MUTED)
    else:
        axes.set_title("New period: must lie right of zero", color=style.MUTED)
    names = [_comparison_name(c) for c in comparisons]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=style.INK, length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(*_limits(comparisons, margin))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("change in accuracy, percentage points")


def _limits(comparisons: Sequence[Mapping[str, Any]], margin: float | None) -> tuple[float, float]:
    ends = [0.0, -150 * margin if margin is not None else 0.0]
    ends += [100 * c[key] for c in comparisons for key in ("low", "high", "difference")]
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low) + 0.1
    return low - pad, high + 3 * pad


def _comparison_name(c: Mapping[str, Any]) -> str:
    best = "best so far, " if c["against"] == "best" else ""
    return f"{style.shortened(c['period'])}  vs {best}version {style.shortened(c['reference'], 10)}"


def forgetting(data: ReportData) -> Figure | None:
    """For each period learnt before: the best score so far and the present one. None where nothing
    was learnt before."""
    chain = data.chain()
    lost = {p: f for p, f in metrics.forgetting(chain).items() if f is not None}
    if not lost:
        return None
    with style.styled():
        figure = style.new_figure(style.WIDTH, _ROW * len(lost) + 52)
        axes = figure.add_subplot()
        for row, (period, loss) in enumerate(lost.items()):
            present = chain.present[period]
            assert present is not None, "forgetting is None without a present score"
            _dumbbell(axes, row, 100 * (present + loss), 100 * present)
        names = [style.shortened(period) for period in lost]
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", labelcolor=style.INK, length=0)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(*_accuracy_limits(axes))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("accuracy, %      ○ best of its bases since learnt      ● now")
    return figure


def _dumbbell(axes: Axes, row: int, best: float, now: float) -> None:
    colour = style.BAD if now < best else style.GOOD
    axes.plot([best, now], [row, row], color=colour, lw=2.4, alpha=0.5, solid_capstyle="butt")
    axes.plot([best], [row], "o", mfc=style.SURFACE, mec=style.MUTED, mew=1.3, ms=6)
    axes.plot([now], [row], "o", color=colour, ms=6.5)
    axes.annotate(
        style.signed(now - best),
        (max(best, now), row),
        (9, 0),
        textcoords="offset points",
        va="center",
        size=8,
        color=colour,
    )


def _accuracy_limits(axes: Axes) -> tuple[float, float]:
    low, high = axes.get_xlim()
    span = max(high - low, 5.0)
    return max(-1.0, low - 0.05 * span), min(108.0, high + 0.12 * span)
