"""A replayed arm of which no update was deployed: its numbers are the first model's, and it is
said."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from updater.study.report.outputs import write
from updater.study.report.sheets import paired, results
from updater.study.report.words import none_deployed
from updater.study.results import Run
from updater.study.tabulated import Table, tabulate

Make = Callable[..., list[Run]]


def rejected(run: Run) -> Run:
    stages = [
        dataclasses.replace(stage, verdict="rejected", deployed=False) for stage in run.stages[1:]
    ]
    return dataclasses.replace(run, stages=(run.stages[0], *stages))


def accepted(run: Run) -> Run:
    stages = [dataclasses.replace(stage, verdict="accepted") for stage in run.stages[1:]]
    return dataclasses.replace(run, stages=(run.stages[0], *stages))


@pytest.fixture
def table(make_arm: Make) -> Table:
    """All of wild's updates are rejected, with seed 1 all of half's."""
    good = [accepted(run) for run in make_arm("rehearsal", 0.95, seeds=2)]
    wild = [rejected(run) for run in make_arm("wild", 0.4, seeds=2)]
    first, second = make_arm("half", 0.8, seeds=2)
    return tabulate([*good, *wild, accepted(first), rejected(second)], reference="rehearsal")


def test_its_forgetting_is_the_first_models_which_is_none(table: Table) -> None:
    wild = table.arm("wild")
    assert wild is not None
    assert set(wild.values("worst_forgetting").values()) == {0.0}
    assert [arm.undeployed for arm in table.arms] == [(), (0, 1), (1,)]


def test_the_tables_and_both_pages_say_whose_it_is(table: Table, tmp_path: Path) -> None:
    note = "No update was deployed: wild, half (seed 1). Users had the first model all along:"
    assert none_deployed(table.arms).startswith(note)
    for sheet in (results(table), paired(table)):
        assert note in sheet.below
    write(table, tmp_path, title="Tickets")
    for name in ("study.html", "study.md"):
        assert (tmp_path / name).read_text().count(note) == 3, "two tables and the picture"


def test_nothing_is_said_where_all_deployed_something_or_nothing_was_judged(
    make_arm: Make,
) -> None:
    runs = make_arm("rehearsal", 0.95, seeds=2)
    for found in (runs, [accepted(run) for run in runs]):
        assert none_deployed(tabulate(found).arms) == ""
