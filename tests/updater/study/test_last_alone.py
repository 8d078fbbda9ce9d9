"""An arm that trained at the last update alone: what is told of it, and what would mislead."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from updater.study.pairs import compared
from updater.study.plan import Pair
from updater.study.report import heat
from updater.study.report.exports import answer, arms_csv, as_json, pairs_csv
from updater.study.report.outputs import write
from updater.study.report.pictures import PICTURES
from updater.study.report.sheet import Sheet
from updater.study.report.sheets import sheets
from updater.study.results import Run
from updater.study.tabulated import OF_EACH_UPDATE, SUMS, Table, tabulate

Make = Callable[..., list[Run]]
NOTE = "Trained at the last update alone: late."
FINAL = "final_average_accuracy"


@pytest.fixture
def table(make_arm: Make, make_late: Make) -> Table:
    runs = [*make_arm("rehearsal", 0.9, seeds=3), *make_arm("ewc", 0.7, seeds=3)]
    pairs = (Pair("late", "rehearsal"), Pair("ewc", "rehearsal"))
    return tabulate([*runs, *make_late("late")], pairs=pairs, scratch="late")


def row(sheet: Sheet, arm: str) -> dict[str, str]:
    """Column -> cell."""
    (found,) = (row for row in sheet.rows if row[0] == arm)
    return dict(zip(sheet.columns, found, strict=True))


def test_the_tables_have_dashes_for_what_is_the_first_models_or_of_one_update(
    table: Table,
) -> None:
    results, against, paired, *_ = sheets(table)
    late = row(results, "late")
    of_updates = {"new period, %", "backward transfer", "forward transfer", "worst forgetting"}
    assert {name for name, cell in late.items() if cell == "–"} == of_updates
    assert late["steps"] == "600"
    late = row(against, "late")
    dashes = {name for name, cell in late.items() if cell == "–"}
    assert dashes == {"new period", "worst forgetting", "seconds"}
    assert late["final accuracy is"] == "better"
    late = row(paired, "late")
    times = {"seconds, times", "steps, times", "tokens, times"}
    assert {name for name, cell in late.items() if cell == "–"} == times
    for sheet in (results, against, paired):
        assert "–" not in row(sheet, "ewc").values()
        assert sheet.below.startswith(NOTE)


def test_why_is_said_under_the_tables_of_both_pages(table: Table, tmp_path: Path) -> None:
    write(table, tmp_path, title="Tickets")
    for name in ("study.html", "study.md"):
        text = (tmp_path / name).read_text()
        assert text.count(NOTE) == 3
        assert "No row for those that trained at the last update alone: late." in text
        claims = [line for line in text.splitlines() if "late is better than rehearsal: +" in line]
        assert len(claims) == 2
        assert not any("It took" in claim for claim in claims)


def test_without_such_an_arm_there_is_no_such_note(make_arm: Make, tmp_path: Path) -> None:
    write(tabulate(make_arm("rehearsal", 0.9, seeds=2)), tmp_path, title="Tickets")
    assert "the last update alone" not in (tmp_path / "study.md").read_text()


def test_an_only_update_is_the_whole_stream(make_arm: Make, make_late: Make) -> None:
    runs = [*make_arm("rehearsal", 0.9), *make_late("late", 5)]
    cut = [Run(r.arm, r.seed, r.learnt_first, (r.stages[0], r.stages[-1])) for r in runs]
    found = tabulate(cut)
    assert [arm.learnt_at_last_alone for arm in found.arms] == [False, False]
    for name in OF_EACH_UPDATE | SUMS:
        assert len(found.differences(name)) == 1, name


def test_each_measure_of_a_run_stays_and_what_is_made_of_them_is_empty(table: Table) -> None:
    measured = answer(table)["arms"]["late"]
    assert all(len(measured[name]) == 3 and None not in measured[name] for name in OF_EACH_UPDATE)
    found = json.loads(json.dumps(as_json(table), allow_nan=False))
    assert OF_EACH_UPDATE.isdisjoint(found["estimates"]["late"])
    assert {FINAL, *SUMS} <= found["estimates"]["late"].keys()
    for name in OF_EACH_UPDATE | SUMS:
        assert [one["arm"] for one in found["differences"][name]] == ["ewc"], name
    assert [one["arm"] for one in found["differences"][FINAL]] == ["ewc", "late"]
    late, ewc = found["pairs"]
    assert late["seconds"] is late["steps"] is late["tokens"] is None
    assert late["accuracy"]["estimate"]["mean"] > 0
    assert ewc["steps"]["mean"] == 1


def test_the_csv_files_leave_the_same_empty(table: Table) -> None:
    rows = [row for row in csv.DictReader(arms_csv(table).splitlines()) if row["arm"] == "late"]
    by_measure = {row["measure"]: row for row in rows}
    assert OF_EACH_UPDATE.isdisjoint(by_measure)
    for name in SUMS:
        assert float(by_measure[name]["mean"]) > 0
        assert by_measure[name]["difference"] == by_measure[name]["claim"] == ""
    assert float(by_measure[FINAL]["difference"]) > 0
    late, ewc = csv.DictReader(pairs_csv(table).splitlines())
    assert (late["steps_ratio"], late["seconds_ratio"], late["tokens_ratio"]) == ("", "", "")
    assert float(ewc["steps_ratio"]) == 1


def test_two_such_arms_cost_one_update_each_and_are_compared(
    make_arm: Make, make_late: Make
) -> None:
    runs = [*make_late("whole", steps=200), *make_late("half"), *make_arm("ewc", 0.7, seeds=3)]
    found = tabulate(runs, "whole", pairs=[Pair("half", "whole")])
    (pair,) = compared(found)
    assert pair.steps is not None
    assert pair.steps.mean == pytest.approx(0.5)
    (steps,) = found.differences("steps")
    assert (steps.arm, steps.estimate.mean) == ("half", -600)
    assert found.differences("new_accuracy") == []


def test_only_the_update_at_which_it_trained_is_set_against_scratch(
    make_arm: Make, make_late: Make, tmp_path: Path
) -> None:
    """Whichever of the two it is."""
    runs = [*make_arm("anew", 1.0, seeds=2, grows=True), *make_late("late", 2, steps=50)]
    for scratch, other in (("anew", "late"), ("late", "anew")):
        write(tabulate(runs, scratch=scratch), tmp_path, title="Tickets")
        found = json.loads((tmp_path / "study.json").read_text())["ratios"]
        for name in ("accuracy", "steps", "seconds"):
            assert list(found[name][other]) == ["5"]
        assert found["steps"][other]["5"]["mean"] == (0.5 if other == "late" else 2)


def test_its_forgetting_is_not_drawn(table: Table) -> None:
    figure = heat.forgetting(table)
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["rehearsal", "ewc"]
    assert PICTURES["forgetting"].explained(table).endswith("alone: late.")
