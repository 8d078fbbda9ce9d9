"""All that a study leaves for people and scripts, written into one folder from its table.

`write` is called when runs have finished (or some of them: what is there is shown), and may be
called again at any time. Called by `updater study`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from updater.files import write_json, write_text
from updater.report import style
from updater.study.ratios import ratios
from updater.study.replay import replayed
from updater.study.report.exports import (
    answer,
    arms_csv,
    as_json,
    compressions_csv,
    pairs_csv,
    ratios_csv,
    runs_csv,
    sweeps_csv,
)
from updater.study.report.markdown import markdown
from updater.study.report.page import render
from updater.study.report.pictures import PICTURES, Picture
from updater.study.tabulated import Table

PAGE = "study.html"
TEXT = "study.md"
TABLE = "study.json"
CSVS = {
    "runs": runs_csv,
    "arms": arms_csv,
    "pairs": pairs_csv,
    "sweeps": sweeps_csv,
    "ratios": ratios_csv,
    "compressions": compressions_csv,
}


def write(table: Table, folder: Path, *, title: str) -> dict[str, Any]:
    """The folder has study.html, study.md, study.json, arms.csv (means and differences), runs.csv,
    pairs.csv where pairs were declared, sweeps.csv where arms swept, ratios.csv where an arm trains
    from scratch, compressions.csv where one compresses, and each picture as SVG and PNG; what comes
    back is the answer of `updater study --json`.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _draw(table, folder)
    shown = {name: picture for name, (picture, _) in drawn.items()}
    write_text(folder / TEXT, markdown(table, shown, title=title))
    write_text(folder / PAGE, render(table, drawn, title=title))
    for name, as_text in CSVS.items():
        text = as_text(table)
        path = folder / f"{name}.csv"
        if text:
            write_text(path, text)
        else:
            path.unlink(missing_ok=True)  # of another study that lay here
    write_json(folder / TABLE, {**as_json(table), **_more(table)})
    return answer(table)


def _draw(table: Table, folder: Path) -> dict[str, tuple[Picture, Figure]]:
    """The pictures that have something to show, which are in the folder."""
    drawn = {}
    for name, picture in PICTURES.items():
        figure = picture.draw(table)
        if figure is not None:
            drawn[name] = (picture, figure)
        for path in (folder / f"{name}.{kind}" for kind in ("png", "svg")):
            if figure is None:
                path.unlink(missing_ok=True)  # of another study that lay here
            else:
                style.save(figure, path)
    return drawn


def _more(table: Table) -> dict[str, Any]:
    """Ratios to scratch by number of past periods, and what replays came to; where there are."""
    return {
        "ratios": {
            name: {arm: {x: asdict(one) for x, one in curve.items()} for arm, curve in arms.items()}
            for name, arms in ratios(table).items()
        },
        "replays": {
            arm.name: {
                run.seed: found.as_dict()
                for run in arm.runs
                if (found := replayed(run)) is not None
            }
            for arm in table.arms
        },
    }
