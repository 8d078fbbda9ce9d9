"""Heatmaps, arms down: forgetting by period; of what is compressed accuracy by period, and parts.

Called by `updater.study.report.pictures`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from updater import metrics
from updater.report import style
from updater.study.comparison import Estimate
from updater.study.compressions import by_period, compressions, over_seeds
from updater.study.measures import chain, mean, served
from updater.study.tabulated import Arm, Table

_LEAST_TOP = 0.1  # of the colour scale: less forgetting than this all over stays pale
_NAME, _ARM = 24, 40  # characters


def forgetting(table: Table) -> Figure | None:
    """Best accuracy so far minus final accuracy on each period but the last, mean over seeds, in
    points. None where nothing could be forgotten. Of an arm that trained at the last update alone
    the best before was the first model's: it has no row."""
    arms = [arm for arm in table.arms if arm.finished and not arm.learnt_at_last_alone]
    rows = {arm.name: _forgotten(arm) for arm in arms}
    periods = list(dict.fromkeys(period for row in rows.values() for period in row))
    if not periods:
        return None
    top = max([_LEAST_TOP, *(v for row in rows.values() for v in row.values() if v is not None)])
    return _drawn(rows, periods, top)


def compressed(table: Table) -> Figure | None:
    """Accuracy on each period, mean over seeds, of the uncompressed model and each that is
    compressed. None where nothing is."""
    told, whole = compressions(table), table.arm(table.uncompressed)
    if not told or whole is None:
        return None
    rows = {whole.name: _means(over_seeds(by_period(whole)))}
    rows |= {one.arm.name: _means(one.periods) for one in told}
    return _drawn(rows, list(rows[whole.name]), 1.0)


_MOST_PARTS = 64
"""Columns that can be told apart; chosen by looking."""


def gone(table: Table) -> Figure | None:
    """With how many of the seeds each expert and layer went that went with any, by arm. None where
    none did, or too many."""
    told = [one for one in compressions(table) if one.way.settings.remove in ("experts", "layers")]
    rows = {one.arm.name: _went(one.arm) for one in told if one.way.control == "none"}
    parts = sorted({part for row in rows.values() for part in row})
    if not 0 < len(parts) <= _MOST_PARTS:
        return None
    sorts = {name: {key for key, _ in row} for name, row in rows.items()}
    shares = {
        name: {_called(p): row.get(p, 0.0) if p[0] in sorts[name] else None for p in parts}
        for name, row in rows.items()
    }
    return _drawn(shares, [_called(part) for part in parts], 1.0)


Part = tuple[str, int]
"""What it belongs to, by its released name, and its number there."""


def _went(arm: Arm) -> dict[Part, float]:
    """Part -> share of the finished seeds with which it went."""
    found: Counter[Part] = Counter(
        (key, number)
        for run in arm.finished
        if run.compressed is not None
        for key, numbers in run.compressed.gone.items()
        for number in numbers
    )
    return {part: number / len(arm.finished) for part, number in found.items()}


def _called(part: Part) -> str:
    key, number = part
    layer = next((word for word in key.split(".") if word.isdigit()), "")
    return f"layer {layer}, expert {number}" if layer else f"layer {number}"


def _means(found: Mapping[str, Estimate]) -> dict[str, float | None]:
    return {period: one.mean for period, one in found.items()}


Rows = Mapping[str, Mapping[str, float | None]]
"""Arm -> period -> a fraction."""


def _drawn(rows: Rows, periods: Sequence[str], top: float) -> Figure:
    """`top` is the darkest."""
    width = max(34.0, min(84.0, 560 / len(periods)))
    longest = max(len(style.shortened(p, _NAME)) for p in periods)
    slanted = width < 5.5 * longest
    heading = 24 + 3.9 * longest if slanted else 24.0
    with style.styled():
        names = 20 + 5.5 * max(len(style.shortened(name, _ARM)) for name in rows)
        size = (max(150.0, names) + width * len(periods), heading + 22 * len(rows) + 12)
        figure = style.new_figure(*size)
        axes = figure.add_subplot()
        for i, row in enumerate(rows.values()):
            for j, period in enumerate(periods):
                _cell(axes, row.get(period), (i, j), top)
        _frame(axes, list(rows), periods, slanted=slanted)
    return figure


def _forgotten(arm: Arm) -> dict[str, float | None]:
    """Period -> mean over the finished seeds; None where one lacks it."""
    seeds = [metrics.forgetting(chain(served(run))) for run in arm.finished]
    return {period: mean([seed[period] for seed in seeds]) for period in seeds[0]}


def _cell(axes: Axes, value: float | None, place: tuple[int, int], top: float) -> None:
    i, j = place
    box = (j - 0.48, i - 0.46)
    if value is None:
        axes.add_patch(Rectangle(box, 0.96, 0.92, fc="none", ec=style.GRID, lw=0.8))
        axes.text(j, i, "–", ha="center", va="center", size=8, color=style.MUTED)
        return
    colour = style.SCALE(max(0.0, value) / top)
    axes.add_patch(Rectangle(box, 0.96, 0.92, fc=colour, lw=0))
    shown = f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")
    axes.text(j, i, shown, ha="center", va="center", size=9, color=style.on(colour))


def _frame(axes: Axes, names: Sequence[str], periods: Sequence[str], *, slanted: bool) -> None:
    axes.set_xlim(-0.5, len(periods) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    shown = [style.shortened(period, _NAME) for period in periods]
    axes.set_xticks(range(len(periods)), shown, rotation=45 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [style.shortened(name, _ARM) for name in names])
    axes.xaxis.set_ticks_position("none")
    axes.tick_params(
        axis="both", length=0, labeltop=True, labelbottom=False, labelcolor=style.INK, pad=5
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
