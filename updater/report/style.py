"""How the pictures look: colours, type, and the way from a figure to SVG for the page or a file.

Called by the figures and the page. Colours carry a role, so that the page can hand them over to its
style sheet and follow the reader's light or dark setting. The hues are of Okabe & Ito (2008),
which people with any common colour blindness can tell apart; no meaning hangs on hue alone.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

INK = "#1c2127"
MUTED = "#68717d"
GRID = "#dfe3e8"
SURFACE = "#fdfdfe"
BLUE = "#0a6ebd"
GOOD = "#00805c"
BAD = "#cf4a00"
UNSURE = "#8a6d00"
PURPLE = "#a0569f"
ON_DARK, ON_LIGHT = "#ffffff", "#000000"  # text on a heatmap cell, the same in light and dark
LOW, HIGH = "#fff3d6", "#08306b"  # the ends of the heatmap's scale; see `SCALE`
HEAT = (LOW, "#d9e8c9", "#86c5c3", "#3a8fbb", "#1c5a9c", HIGH)  # lightness falls evenly
NUM_STEPS = 20
SCALE = LinearSegmentedColormap.from_list("heat", HEAT)

_ROLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    BLUE: "blue",
    GOOD: "good",
    BAD: "bad",
    UNSURE: "unsure",
    PURPLE: "purple",
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH = 720.0  # points; the page's column is as wide
_CSS_PX_PER_POINT = 4 / 3
_LEAST_PX_PER_POINT = 0.9  # the smallest type that can still be read on a phone, by looking
_PARAMETERS: Any = {  # matplotlib's own type for it names 300 literals
    "svg.fonttype": "none",  # text stays text: searchable, selectable and small
    "svg.hashsalt": "updater",  # the same data give the same bytes
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than the fonts shown, so all fits
    "font.size": 9,
    "text.parse_math": False,  # a period may be called "cost_$"
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": SURFACE,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved inside look as this module says; nothing outside is changed."""
    with matplotlib.rc_context(_PARAMETERS), warnings.catch_warnings():
        # A period in a script that the measuring font lacks: the reader's font has it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def new_figure(width_points: float, height_points: float) -> Figure:
    """An empty figure of that size, outside pyplot's global state."""
    figure = Figure(figsize=(width_points / 72, height_points / 72), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """The picture is in `path`, a PNG or SVG by its suffix; the same picture gives the same bytes.

    Raises:
        OSError: it can't be written.
    """
    with styled():
        kind = path.suffix.removeprefix(".")
        metadata: Any = {"Date": None, "Creator": None} if kind == "svg" else None
        figure.savefig(path, dpi=160, format=kind, metadata=metadata)


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """An `<svg>` element for the page: no outside references, ids unique to `name`, colours by the
    page's style sheet, and a size that shrinks with the page down to what can still be read."""
    stream = io.StringIO()
    with styled():
        figure.patch.set_visible(False)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#([^")]+)', rf"\1#{name}-\2", text)
    text = text.replace("'DejaVu Sans'", _FONT).replace("DejaVu Sans", _FONT)
    for colour, role in _ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    width = float(figure.get_figwidth()) * 72
    natural, least = width * _CSS_PX_PER_POINT, width * _LEAST_PX_PER_POINT
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    opening = (
        f'<svg role="img" aria-label="{_attribute(description)}" viewBox="{box.group(1)}" '
        f'style="width:min(100%,{natural:.0f}px);min-width:{least:.0f}px" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + text[text.index(">") + 1 :].strip()


def steps() -> list[tuple[str, str]]:
    """The heatmap's scale in `NUM_STEPS` steps, for cells of a table: (colour, that of text)."""
    middles = [(i + 0.5) / NUM_STEPS for i in range(NUM_STEPS)]
    return [(to_hex(SCALE(middle)), on(SCALE(middle))) for middle in middles]


def step(accuracy: float) -> int:
    """Which of `steps` an accuracy in [0, 1] has."""
    return min(NUM_STEPS - 1, int(accuracy * NUM_STEPS))


def signed(points: float) -> str:
    """A difference in points, with a real minus: -1.25 is "−1.2"."""
    return f"{points:+.1f}".replace("-", "−")


def shortened(text: str, most: int = 22) -> str:
    """`text` with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def on(colour: tuple[float, ...]) -> str:
    """Black or white, whichever reads better on the colour (red, green, blue, in 0..1): by relative
    luminance, WCAG 2.1, where both have a contrast of 4.58 at 0.179."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return ON_DARK if luminance < 0.179 else ON_LIGHT


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
