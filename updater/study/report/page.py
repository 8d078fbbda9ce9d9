"""A study as one HTML page that needs nothing else: no script, no font, no picture from outside.

The same data give the same bytes. The layout is in `study.html`, what all pages of the
house share in `updater/report`; every text goes through Jinja's escaping.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from updater import report
from updater.report import style
from updater.study.report import pair_report, sweep_report, words
from updater.study.report.pictures import Picture
from updater.study.report.sheet import aligned
from updater.study.report.sheets import sheets
from updater.study.tabulated import Table


def render(table: Table, drawn: Mapping[str, tuple[Picture, Figure]], *, title: str) -> str:
    """The page, a whole HTML document.

    Args:
        drawn: name -> the picture and its figure, of those that have something to show.
    """
    return _template().render(
        title=title,
        summary=words.summary(table),
        headings={
            "stopped": words.STOPPED,
            "holds": words.HOLDS,
            "pairs": pair_report.TITLE,
            "choices": sweep_report.TITLE,
        },
        basis=words.basis(table),
        claims=words.claims(table) or [("unsure", words.nothing_compared(table))],
        pairs=pair_report.sentences(table),
        failures=[sentence for arm in table.arms for sentence in words.stopped(arm)],
        choices=sweep_report.sentences(table),
        sheets=[(sheet, aligned(sheet)) for sheet in sheets(table)],
        pictures=[
            {
                "title": picture.title,
                "how": picture.explained(table),
                "svg": Markup(style.inline_svg(figure, name, picture.title)),
            }
            for name, (picture, figure) in drawn.items()
        ],
    )


@cache
def _template() -> jinja2.Template:
    folders = [Path(__file__).parent, Path(report.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = lambda name: style.shortened(name, 30)
    return environment.get_template("study.html")
