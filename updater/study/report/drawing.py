"""What a study's plots share: their frame, and names at the ends of lines that don't collide.

Which arms are drawn: `updater.study.report.looks`; names of points: `point_names`. Called by
`updater.study.report.plots` and `served`.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.study.report.looks import Mark

_LABEL_POINTS = 11.0  # the height of a line of 8-point type
NAME = 26
"""Characters: what is longer loses its middle."""


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
            style.shortened(name, NAME),
            color=look.colour,
            size=8,
            va="center",
        )


def tidy(axes: Axes) -> None:
    """Light lines across, nothing else around the data."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def within(axes: Axes, top: float = 100.0) -> None:
    """The axis upwards shows no percentage below 0 or above `top`: there are none, though a margin
    asks for them."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(top, high))


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
