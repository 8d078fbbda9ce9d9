"""The picture of what compression took away: of experts and heads which, of layers which, and of
neurons and single weights what share, by layer and sort.

Called by `figures`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from updater.report import style
from updater.report.data import ReportData, Went

_WIDEST = 560.0  # points for the cells of a row, beside their names
_LAYERS_A_ROW = 54  # Nano has 52


def what_went(data: ReportData) -> Figure | None:
    """None where the version is not compressed, or quantized alone."""
    went = data.went
    if went is None or data.compression is None:
        return None
    with style.styled():
        if went.layers:
            return _strip(went)
        if went.parts:
            return _map(went, "expert" if data.compression.asked.remove == "experts" else "head")
        return _heat(went) if went.shares else None


def _map(went: Went, part: str) -> Figure:
    """Layers down, their parts across: those that went are filled."""
    rows, count = list(went.parts), went.num_parts
    width, height = min(26.0, _WIDEST / count), 19.0 if len(rows) <= 8 else 11.5
    figure = style.new_figure(max(300.0, 90 + width * count), 66 + height * len(rows))
    axes = figure.add_subplot()
    axes.add_patch(_boxes([(-0.5, y - 0.4, count, 0.8) for y in range(len(rows))], style.GRID))
    gone = [(n - 0.5, y - 0.4, 1.0, 0.8) for y, row in enumerate(rows) for n in went.parts[row]]
    axes.add_patch(_boxes(gone, style.BAD))
    if width >= 3:
        edges = np.arange(1, count) - 0.5
        xs = np.stack([edges, edges, np.full_like(edges, np.nan)], axis=1).ravel()
        ys = np.tile([-0.5, len(rows) - 0.5, np.nan], len(edges))
        axes.plot(xs, ys, color=style.SURFACE, lw=min(1.5, width / 6))
    _bare(axes, count, len(rows))
    axes.set_xticks(range(0, count, _stride(count, 16)))
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(part)
    axes.set_ylabel("layer")
    _legend(figure)
    return figure


def _strip(went: Went) -> Figure:
    """The layers by letter and number, one after the other."""
    count = len(went.letters)
    across = min(count, _LAYERS_A_ROW)
    lines = math.ceil(count / across)
    width = min(26.0, 660 / across)
    figure = style.new_figure(max(300.0, 20 + width * across), 30 + 40 * lines)
    axes = figure.add_subplot()
    for colour, is_gone in ((style.GRID, False), (style.BAD, True)):
        of = [n for n in range(count) if (n in went.layers) is is_gone]
        boxes = [(n % across - 0.45, 1.6 * (n // across) - 0.5, 0.9, 0.8) for n in of]
        axes.add_patch(_boxes(boxes, colour))
    for n, letter in enumerate(went.letters):
        is_gone = n in went.layers
        look: Any = {"ha": "center", "va": "center", "weight": "bold" if is_gone else "normal"}
        inside, below = (style.SURFACE, style.BAD) if is_gone else (style.INK, style.MUTED)
        x, y = n % across, 1.6 * (n // across)
        axes.text(x, y - 0.1, letter, size=8.5, color=inside, **look)
        axes.text(x, y + 0.65, str(n), size=6.5, color=below, **look)
    _bare(axes, across, 1.6 * lines)
    axes.set_axis_off()
    _legend(figure)
    return figure


def _heat(went: Went) -> Figure:
    """Sorts down, layers across, those of a multi-token-prediction head at the end. The scale ends
    at the next tenth above the largest share."""
    layers = [str(n) for n in range(len(went.letters))]
    layers += sorted({layer for layer, _ in went.shares} - set(layers))
    sorts = sorted(
        {sort for _, sort in went.shares},
        key=lambda sort: (min(layers.index(at) for at, of in went.shares if of == sort), sort),
    )
    width = min(48.0, _WIDEST / len(layers))
    figure = style.new_figure(max(340.0, 200 + width * len(layers)), 66 + 24 * max(3, len(sorts)))
    axes = figure.add_subplot()
    shares = {
        (layers.index(layer), sorts.index(sort)): share
        for (layer, sort), share in went.shares.items()
    }
    cells = _cells(axes, shares, is_numbered=width >= 24)
    _bare(axes, len(layers), len(sorts))
    every = _stride(len(layers), 14)
    names = [
        f"{letter}\n{layer if n % every == 0 or letter == ' ' else ''}"
        for n, (letter, layer) in enumerate(
            zip(went.letters.ljust(len(layers)), layers, strict=True)
        )
    ]
    axes.set_xticks(range(len(layers)), names)
    axes.set_yticks(range(len(sorts)), sorts)
    axes.set_xlabel("layer")
    _bar(figure, axes, cells, aspect=5 * len(sorts))
    return figure


def _cells(
    axes: Axes, shares: Mapping[tuple[int, int], float], *, is_numbered: bool
) -> PatchCollection:
    """One for each (across, down), coloured by its share."""
    scale = Normalize(0, max(0.1, math.ceil(10 * max(shares.values()) - 1e-9) / 10))
    boxes = [Rectangle((x - 0.47, y - 0.44), 0.94, 0.88) for x, y in shares]
    cells = PatchCollection(boxes, cmap=style.SCALE, norm=scale, linewidths=0)
    cells.set_array(list(shares.values()))
    axes.add_collection(cells)
    for (x, y), share in shares.items() if is_numbered else ():
        ink = style.on(style.SCALE(scale(share)))
        axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", size=8, color=ink)
    return cells


def _bar(figure: Figure, axes: Axes, cells: PatchCollection, *, aspect: float) -> None:
    bar = figure.colorbar(cells, ax=axes, pad=0.01, aspect=aspect)
    _, top = cells.get_clim()
    assert top is not None, "the cells have a scale"
    bar.set_ticks([0, top], labels=["0 %", f"{100 * top:.0f} %"])
    bar.ax.tick_params(labelsize=7.5)
    for spine in bar.ax.spines.values():
        spine.set_visible(False)


def _boxes(boxes: Sequence[tuple[float, float, float, float]], colour: str) -> PathPatch:
    """All of them (x, y, width, height) as one shape: thousands of small ones would double the
    page."""
    shapes = [
        Path([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], closed=True)
        for x, y, w, h in boxes
    ]
    return PathPatch(Path.make_compound_path(*shapes), facecolor=colour, lw=0)


def _bare(axes: Axes, across: float, down: float) -> None:
    axes.set_xlim(-0.55, across - 0.45)
    axes.set_ylim(down - 0.5, -0.5)
    axes.tick_params(length=0, labelsize=7.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _stride(count: int, most: int) -> int:
    """A power of two with which at most so many are named."""
    return 1 << max(0, math.ceil(math.log2(count / most)))


def _legend(figure: Figure) -> None:
    patches = [
        Rectangle((0, 0), 1, 1, facecolor=colour, label=name)
        for colour, name in ((style.BAD, "went"), (style.GRID, "stays"))
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=2)
