"""Names beside the points of a plot: none covers another, and one that had to move has a leader.

Called by `updater.study.report.plots`. Places and lengths are in points of 1/72 inch, from the
figure's lower left corner; boxes are rows of left, foot, right, top, and leaders of x, y, x, y.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from numpy.typing import NDArray

from updater.report import style
from updater.study.report.drawing import NAME
from updater.study.report.looks import Mark

Floats = NDArray[np.float64]

_MARKER = 4.0  # half of its width
_NEAR = 7  # from the point to a name that needs no leader
_NEAREST = [(_NEAR * dx, _NEAR * dy) for dx in (1, -1, 0) for dy in (0, 1, -1) if dx or dy]
_FURTHER = [(dx, 11 * k) for dx in (12, -12, 30, -30, 60, -60, 150, -150) for k in range(-16, 17)]
_OFFSETS = np.array([*_NEAREST, *_FURTHER], np.float64)
"""From the point to the side of the name that is next to it; a line of 8-point type is 11 high."""

# What is bad about a place, in units of a whole name on top of a point; chosen by looking.
_ON_A_NAME, _OUTSIDE, _THROUGH_A_NAME, _CROSSING = 1000.0, 100.0, 8.0, 2.0
_ON_A_THING, _PER_POINT = 0.3, 0.02


def name_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Mark],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Each point's name stands near it, on no other name, and where it covers the fewest points
    and `lines` (upright or level ones, from one (x, y) to another). A leader goes from it to the
    point unless it stands beside that and no other. The axes keep the limits that they have."""
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    inside = np.array([axes.get_window_extent().extents], np.float64) / scale
    places = {name: axes.transData.transform(xy) / scale for name, xy in points.items()}
    drawn = [np.sort(axes.transData.transform(line) / scale, axis=0).ravel() for line in lines]
    markers = _rows(
        [[x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER] for x, y in places.values()]
    )
    things = np.concatenate([_rows(drawn) + np.array([-1, -1, 1, 1]), markers])
    names, leaders = _rows([]), _rows([])
    for name in sorted(points, key=lambda name: places[name][0], reverse=True):
        text = _written(axes, name, points[name], looks[name])
        extent = text.get_window_extent()
        boxes = _beside(places[name], extent.width / scale, extent.height / scale)
        threads = _threads(places[name], boxes)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        length = np.hypot(*(threads[:, 2:] - threads[:, :2]).T)
        badness = (
            _ON_A_NAME * (_common(boxes, names) > 0).sum(1)
            + (_common(boxes, things) / area[:, None]).sum(1)
            + _ON_A_THING * (_common(boxes, things) > 0).sum(1)
            + _OUTSIDE * (1 - _common(boxes, inside)[:, 0] / area)
            + _THROUGH_A_NAME * (_through(threads, names).sum(1) + _through(leaders, boxes).sum(0))
            + _CROSSING * (_crossing(threads, leaders).sum(1) + _through(threads, markers).sum(1))
            + _PER_POINT * length
        )
        best = int(badness.argmin())
        _put(text, _OFFSETS[best])
        others = np.array([xy for other, xy in places.items() if other != name]).reshape(-1, 2)
        if best >= len(_NEAREST) or (_distance(others, boxes[best]) < length[best] + 3).any():
            _lead(axes, points[name], threads[best, 2:] - places[name], looks[name])
            leaders = np.concatenate([leaders, threads[best : best + 1]])
        names = np.concatenate([names, boxes[best : best + 1]])


def _written(axes: Axes, name: str, point: tuple[float, float], look: Mark) -> Annotation:
    shown = style.shortened(name, NAME)
    text = axes.annotate(
        shown, point, (0, 0), textcoords="offset points", color=look.colour, size=8
    )
    text.set_in_layout(False)
    return text


def _put(text: Annotation, offset: Floats) -> None:
    dx, dy = map(float, offset)
    text.set_position((dx, dy))
    text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
    text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")


def _lead(axes: Axes, point: tuple[float, float], to: Floats, look: Mark) -> None:
    arrow = {"arrowstyle": "-", "color": look.colour, "lw": 0.7, "alpha": 0.7, "shrinkA": 0}
    dx, dy = map(float, to)
    leader = axes.annotate(
        "", point, (dx, dy), textcoords="offset points", arrowprops={**arrow, "shrinkB": 0}
    )
    leader.set_in_layout(False)


def _rows(rows: Sequence[Sequence[float] | Floats]) -> Floats:
    return np.array(rows, np.float64).reshape(-1, 4)


def _beside(place: Floats, width: float, height: float) -> Floats:
    """The name's box at each of `_OFFSETS`."""
    size = np.array([width, height])
    low = place + _OFFSETS - size * (1 - np.sign(_OFFSETS)) / 2
    return np.concatenate([low, low + size], axis=1)


def _threads(place: Floats, boxes: Floats) -> Floats:
    """From the place to what is nearest of each box."""
    ends = np.clip(place, boxes[:, :2], boxes[:, 2:])
    return np.concatenate([np.broadcast_to(place, ends.shape), ends], axis=1)


def _distance(places: Floats, box: Floats) -> Floats:
    return np.asarray(np.hypot(*(places - np.clip(places, box[:2], box[2:])).T), np.float64)


def _common(boxes: Floats, others: Floats) -> Floats:
    """The area that each of the boxes shares with each of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(2), np.float64)


def _through(leaders: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Whether each leader goes through each box, which it does where it is inside of all four
    sides at once."""
    start, way = leaders[:, None, :2], leaders[:, None, 2:] - leaders[:, None, :2]
    way = np.where(way == 0, 1e-9, way)
    one, other = (boxes[None, :, :2] - start) / way, (boxes[None, :, 2:] - start) / way
    enters = np.minimum(one, other).max(2).clip(0, None)
    leaves = np.maximum(one, other).min(2).clip(None, 1)
    return np.asarray(enters < leaves)


def _crossing(leaders: Floats, others: Floats) -> NDArray[np.bool_]:
    """Whether each leader crosses each other one: the ends of each on two sides of the other."""

    def side(of: Floats, x: Floats, y: Floats) -> Floats:
        ax, ay, bx, by = (of[..., k] for k in range(4))
        return np.asarray((bx - ax) * (y - ay) - (by - ay) * (x - ax))

    a, b = leaders[:, None], others[None]
    apart = side(a, b[..., 0], b[..., 1]) * side(a, b[..., 2], b[..., 3]) < 0
    return np.asarray(apart & (side(b, a[..., 0], a[..., 1]) * side(b, a[..., 2], a[..., 3]) < 0))
