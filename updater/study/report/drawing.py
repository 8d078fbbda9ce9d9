"""What a study's plots share: which arms are drawn, how each looks, and names that don't collide.

Called by `updater.study.report.plots`, `heat` and `served`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from updater.report import style
from updater.study.tabulated import Table

MOST_ARMS = 12
"""So many can be told apart in one plot; chosen by looking."""

_HUES = (style.BLUE, style.BAD, style.GOOD, style.PURPLE, style.UNSURE, style.INK)
_DASHES: Sequence[Any] = ("-", (0, (4, 1.6)))
_MARKERS = "osD^vPX<>ph*"
_LABEL_POINTS = 11.0  # the height of a line of 8-point type
_NAME = 26  # characters


@dataclass(frozen=True)
class Mark:
    """How an arm looks everywhere: no two of twelve share hue and dash, nor the marker."""

    colour: str
    dash: Any
    marker: str


def marks(table: Table) -> dict[str, Mark]:
    """Arm -> its look, of those that are drawn, in the study's order: finished with some seed, and
    of more than `MOST_ARMS` the first ones, with the reference among them."""
    finished = _finished(table)
    first = sorted(finished, key=lambda name: name != table.reference)[:MOST_ARMS]
    names = [name for name in finished if name in first]
    return {
        name: Mark(
            _HUES[i % len(_HUES)], _DASHES[i // len(_HUES) % len(_DASHES)], _MARKERS[i % MOST_ARMS]
        )
        for i, name in enumerate(names)
    }


def left_out(table: Table) -> str:
    """A sentence on the arms that finished and are not drawn, being too many; "" without any."""
    drawn = marks(table)
    names = [name for name in _finished(table) if name not in drawn]
    said = f"In the tables, but not in the curves, which show at most {MOST_ARMS} arms"
    return f"{said}: {', '.join(names)}." if names else ""


def _finished(table: Table) -> list[str]:
    return [a.name for a in table.arms if a.estimate("final_average_accuracy") is not None]


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """The nearest positions (least squares) that keep the order and lie at least `gap` apart.

    Isotonic regression of the positions less their rank times the gap, by pooling neighbours that
    violate it (Barlow et al. 1972); equal ones keep the given order.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # of sum and count
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, num = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += num
    levels = [total / num for total, num in blocks for _ in range(int(num))]
    placed = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        placed[index] = levels[rank] + rank * gap
    return placed


def name_lines(axes: Axes, ends: dict[str, tuple[float, float]], looks: dict[str, Mark]) -> None:
    """Each line's name stands at the right of the axes, level with its end (x, y) or as near as
    the others allow, with a thin leader to it. Call it when the axes have their limits."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    figure.draw_without_rendering()
    height = axes.get_window_extent().height * 72 / figure.dpi
    gap = _LABEL_POINTS * (high - low) / height
    places = spread([y for _, y in ends.values()], gap)
    shift = max(0.0, low - min(places, default=low)) - max(0.0, max(places, default=high) - high)
    for (name, (x, y)), place in zip(ends.items(), places, strict=True):
        look = looks[name]
        at = place + shift
        reach = 0.035 * (right - axes.get_xlim()[0])
        axes.plot(
            [x, right + 0.4 * reach, right + reach],
            [y, at, at],
            color=look.colour,
            lw=0.7,
            alpha=0.55,
            clip_on=False,
        )
        axes.text(
            right + 1.25 * reach,
            at,
            style.shortened(name, _NAME),
            color=look.colour,
            size=8,
            va="center",
        )


_OFFSETS = [
    (dx, dy)
    for distance in (7, 14, 24, 36)
    for dx, dy in (
        *((distance, 0), (-distance, 0), (0, distance), (0, -distance)),
        *((distance, distance), (-distance, distance)),
        *((distance, -distance), (-distance, -distance)),
    )
]


def name_points(
    axes: Axes,
    points: dict[str, tuple[float, float]],
    looks: dict[str, Mark],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Each point's name stands beside it, where it covers the fewest names, points and `lines`
    (upright or level ones, from one (x, y) to another). The axes keep the limits that they have."""
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    inside = axes.get_window_extent()
    taken = [Bbox(axes.transData.transform(line)).padded(scale) for line in lines]
    for x, y in points.values():
        px, py = axes.transData.transform((x, y))
        taken.append(Bbox.from_bounds(px - 4 * scale, py - 4 * scale, 8 * scale, 8 * scale))
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][0], reverse=True):
        shown = style.shortened(name, _NAME)
        text = axes.annotate(
            shown, (x, y), (0, 0), textcoords="offset points", color=looks[name].colour, size=8
        )
        size = text.get_window_extent()
        boxes = [_beside(axes, (x, y), (dx, dy), size, scale) for dx, dy in _OFFSETS]
        costs = [_cost(box, taken, inside) + i * 1e-3 for i, box in enumerate(boxes)]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        dx, dy = _OFFSETS[best]
        text.set_position((dx, dy))
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
        text.set_in_layout(False)


def _beside(
    axes: Axes, point: tuple[float, float], offset: tuple[int, int], size: Bbox, scale: float
) -> Bbox:
    x, y = axes.transData.transform(point)
    x, y = x + offset[0] * scale, y + offset[1] * scale
    left = x if offset[0] > 0 else x - size.width if offset[0] < 0 else x - size.width / 2
    foot = y if offset[1] > 0 else y - size.height if offset[1] < 0 else y - size.height / 2
    return Bbox.from_bounds(left, foot, size.width, size.height)


def _cost(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """How much of the name covers others, or lies outside of the axes."""
    covered = 0.0
    for other in taken:
        common = Bbox.intersection(box, other)
        if common is not None:
            covered += 0.02 + common.width * common.height / (box.width * box.height)
    kept = Bbox.intersection(box, inside)
    area = 0.0 if kept is None else kept.width * kept.height
    return covered + 4 * (1 - area / (box.width * box.height))


def tidy(axes: Axes) -> None:
    """Light lines across, nothing else around the data."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def period_ticks(axes: Axes, names: Sequence[str]) -> None:
    """The names below the axis at 0, 1, ...: slanted where they would meet, thinned where many."""
    stride = -(-len(names) // 24)
    shown = list(range(0, len(names), stride))
    texts = [style.shortened(names[i], 18) for i in shown]
    slanted = 5.2 * max(map(len, texts)) > 560 / max(1, len(shown))
    axes.set_xticks(shown, texts, rotation=35 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def new_figure(height_points: float) -> Figure:
    """As wide as the page's column."""
    return style.new_figure(style.WIDTH, height_points)
