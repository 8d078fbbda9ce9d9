"""docs/studies.md names every file, column, key, picture and measure that a report has."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from updater.settings import CompressionSettings
from updater.study.measures import NAMES
from updater.study.plan import Pair
from updater.study.report.outputs import CSVS, write
from updater.study.report.pictures import PICTURES
from updater.study.results import Compressed, Run
from updater.study.sweep import Sweep, Try
from updater.study.tabulated import Table, tabulate
from updater.study.ways import Way

TEXT = (Path(__file__).parents[3] / "docs" / "studies.md").read_text("utf-8")
ROWS = {
    found[1]: found[2] for found in re.finditer(r"^\| `(\S+)`[^|]*\| (.*) \|$", TEXT, re.MULTILINE)
}
"""What a table's line begins with -> the rest of it."""


@pytest.fixture
def table(make_study: Callable[..., list[Run]]) -> Table:
    """With something in every file."""
    runs = make_study(2)
    size = Compressed(90, 100, 1.0, 180, 200)
    runs += [dataclasses.replace(r, arm="obd", compressed=size) for r in runs if r.arm == "ewc"]
    tried = Try({"regularizer.strength": 1.0}, tuple(run for run in runs if run.arm == "ewc"))
    pairs, sweeps = [Pair("ewc", "finetune")], [Sweep("ewc", (tried,))]
    return tabulate(
        runs,
        scratch="scratch",
        pairs=pairs,
        sweeps=sweeps,
        ways={"obd": Way(CompressionSettings(method="obd"))},
        uncompressed="finetune",
    )


def named(row: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", ROWS[row]))


@pytest.mark.parametrize("name", CSVS)
def test_every_column_of_a_csv_is_documented(name: str, table: Table) -> None:
    head = next(csv.reader(CSVS[name](table).splitlines()))
    measures = set(NAMES) if name == "runs" else set()  # which have a table of their own
    assert set(head) - measures <= named(f"{name}.csv")


def test_every_key_of_the_json_is_documented(table: Table, tmp_path: Path) -> None:
    write(table, tmp_path, title="Tickets")
    assert set(json.loads((tmp_path / "study.json").read_text("utf-8"))) <= named("study.json")


def test_every_picture_and_measure_is_documented() -> None:
    assert set(PICTURES) | set(NAMES) <= ROWS.keys()
