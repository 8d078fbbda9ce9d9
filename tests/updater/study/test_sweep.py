"""Which value a sweep chooses, whether it lies at the edge, and what is told of all it tried."""

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from updater.study.report.outputs import write
from updater.study.results import Run, Stage
from updater.study.sweep import Sweep, Try
from updater.study.tabulated import Table, tabulate

Make = Callable[..., list[Run]]


EDGE_OF_TIE = "taken of a tie, at the edge of what was tried"


def run(right: int, failure: str = "", seed: int = 0) -> Run:
    stages = (
        Stage("a", {"a": (9, 10), "b": (0, 10)}),
        Stage("b", {"a": (right, 10), "b": (9, 10)}),
    )
    return Run("arm", seed, ("a",), stages, failure)


def tried(strength: Any, runs: Sequence[Run]) -> Try:
    return Try({"regularizer.strength": strength}, tuple(runs))


def chosen(*tries: Try) -> Any:
    found = Sweep("arm", tries).chosen
    return None if found is None else found.choice["regularizer.strength"]


def test_the_best_mean_over_seeds_wins() -> None:
    both = (tried(1.0, [run(2), run(6, seed=1)]), tried(10.0, [run(5), run(5, seed=1)]))
    assert chosen(*both) == 10.0
    assert both[0].accuracies == {0: pytest.approx(0.55), 1: pytest.approx(0.75)}
    assert both[0].mean == pytest.approx(0.65)


def test_of_equal_ones_the_smaller() -> None:
    assert chosen(tried(10.0, [run(5)]), tried(9.0, [run(5)]), tried(90.0, [run(5)])) == 9.0


def test_what_differs_by_rounding_alone_ties() -> None:
    """The same accuracies with other seeds: their sum is not the same in floating point."""
    rights = (0, 0, 2)
    there = tried(10.0, [run(n, seed=s) for s, n in enumerate(rights)])
    back = tried(1.0, [run(n, seed=s) for s, n in enumerate(reversed(rights))])
    assert there.mean != back.mean
    for tries in ((there, back), (back, there)):
        assert Sweep("arm", tries).best == tries
        assert chosen(*tries) == 1.0


def test_of_texts_that_tie_the_first_named() -> None:
    assert chosen(tried("sum", [run(5)]), tried("mean", [run(5)])) == "sum"


def test_one_example_more_is_no_tie() -> None:
    found = Sweep("arm", (tried(1.0, [run(5)]), tried(10.0, [run(6)])))
    assert found.best == found.tries[1:]


def test_a_value_at_which_a_seed_diverged_or_died_is_not_chosen() -> None:
    diverged = run(9, failure="b: diverged", seed=1)
    died = Run("arm", 0, ("a",), (), failure="killed")
    tries = [tried(1.0, [run(9), diverged]), tried(2.0, [died]), tried(3.0, [run(1)])]
    assert chosen(*tries) == 3.0
    assert chosen(*tries[:2]) is None
    assert tries[0].mean is None
    assert tries[0].failures == {1: "b: diverged"}
    assert tries[1].accuracies == {0: None}


@pytest.mark.parametrize(
    ("rights", "edge"),
    [
        ({1.0: 9, 10.0: 2, 100: 1}, True),
        ({1.0: 1, 10.0: 2, 100: 9}, True),
        ({100: 1, 1.0: 9, 10.0: 2}, True),
        ({1.0: 1, 10.0: 9, 100: 2}, False),
        ({1.0: 9}, False),
        ({"mean": 9, "sum": 2}, False),
        ({False: 9, True: 2}, False),
        ({1.0: 9, 10.0: 9, 100: 1}, False),
        ({1.0: 9, 10.0: 2, 100: 9}, True),
        ({1.0: 9, 10.0: 9, 100: 9}, False),
    ],
)
def test_the_edge_is_of_several_numbers(rights: dict[Any, int], edge: bool) -> None:
    found = Sweep("arm", tuple(tried(value, [run(right)]) for value, right in rights.items()))
    assert found.at_edge == (("regularizer.strength",) if edge else ())


def test_what_diverged_beyond_the_choice_was_tried() -> None:
    far = tried(100.0, [run(9, failure="b: diverged")])
    assert Sweep("arm", (tried(1.0, [run(1)]), tried(10.0, [run(5)]), far)).at_edge == ()
    assert Sweep("arm", (far,)).at_edge == ()


def test_each_setting_has_its_own_edge() -> None:
    values = [(s, e) for s in (1.0, 10.0, 100.0) for e in (1, 2, 3)]
    tries = [
        Try(
            {"regularizer.strength": strength, "training.epochs": epochs},
            (run(9 if (strength, epochs) == (10.0, 3) else 1),),
        )
        for strength, epochs in values
    ]
    assert Sweep("arm", tuple(tries)).at_edge == ("training.epochs",)


@pytest.fixture
def table(make_arm: Make) -> Table:
    """One arm that swept: its choice is the least, and the greatest value diverged with a seed."""
    choice = {"regularizer.strength": 10.0}
    runs = [
        Run(one.arm, one.seed, one.learnt_first, one.stages, choice=choice)
        for one in make_arm("ewc", 0.8, seeds=2)
    ]
    sweep = Sweep(
        "ewc",
        (
            tried(10.0, [run(8, seed=7), run(6, seed=8)]),
            tried(100.0, [run(4, seed=7), run(5, seed=8)]),
            tried(1e3, [run(9, seed=7), run(9, failure="b: diverged", seed=8)]),
        ),
    )
    return tabulate(runs, sweeps=[sweep])


def test_the_report_has_all_that_was_tried(table: Table, tmp_path: Path) -> None:
    write(table, tmp_path, title="Tickets")
    page, text = ((tmp_path / name).read_text() for name in ("study.html", "study.md"))
    assert "What the sweeps tried" in page
    edge = "chosen, at the edge of what was tried"
    for said in (f">{edge}</td>", ">seed 8 stopped: b: diverged</td>", ">80.0</td>"):
        assert said in page
    name = "regularizer.strength"
    assert f"* ewc: {name} = 10.0 ({name} at the edge of what was tried)" in text
    rows = [line for line in text.splitlines() if line.startswith("| ewc | regularizer")]
    assert rows == [
        f"| ewc | {name} = 10.0 | 80.0 | 85.0 | 75.0 | {edge} |",
        f"| ewc | {name} = 100.0 | 67.5 | 65.0 | 70.0 |  |",
        f"| ewc | {name} = 1000.0 | – | 90.0 | – | seed 8 stopped: b: diverged |",
    ]


def test_json_and_csv_have_every_seed_of_every_choice(table: Table, tmp_path: Path) -> None:
    write(table, tmp_path, title="Tickets")
    found = json.loads((tmp_path / "study.json").read_text())["sweeps"]["ewc"]
    assert found["at_edge"] == ["regularizer.strength"]
    assert [one["is_chosen"] for one in found["tried"]] == [True, False, False]
    assert found["tried"][2] == {
        "choice": {"regularizer.strength": 1000.0},
        "mean": None,
        "accuracies": {"7": 0.9, "8": None},
        "failures": {"8": "b: diverged"},
        "is_chosen": False,
        "is_tied": False,
    }
    rows = list(csv.DictReader((tmp_path / "sweeps.csv").read_text().splitlines()))
    assert [(row["seed"], row["final_average_accuracy"]) for row in rows[4:]] == [
        ("7", "0.9"),
        ("8", ""),
    ]
    assert (rows[0]["chosen"], rows[0]["at_edge"]) == ("true", "regularizer.strength")
    assert (rows[2]["chosen"], rows[2]["at_edge"]) == ("false", "")
    assert rows[5]["failure"] == "b: diverged"


@pytest.mark.parametrize(
    ("rights", "said", "outcomes"),
    [
        ((7, 7, 7), "a tie of all 3 choices, no winner", ["taken of a tie", *["in the tie"] * 2]),
        ((7, 3, 7), "a tie of 2 choices, no winner", [EDGE_OF_TIE, "", "in the tie"]),
    ],
)
def test_a_tie_is_said_to_be_one_and_by_which_rule_it_was_broken(
    rights: Sequence[int], said: str, outcomes: list[str], make_arm: Make, tmp_path: Path
) -> None:
    choice = {"regularizer.strength": 1.0}
    runs = [dataclasses.replace(one, choice=choice) for one in make_arm("ewc", 0.8, seeds=2)]
    tries = [tried(s, [run(n, seed=7)]) for s, n in zip((1.0, 10.0, 100.0), rights, strict=True)]
    write(tabulate(runs, sweeps=[Sweep("ewc", tuple(tries))]), tmp_path, title="Tickets")
    text = (tmp_path / "study.md").read_text()
    rule = "the smallest value is taken, of texts the first named"
    edge = "" if rights[1] == 7 else "; regularizer.strength at the edge of what was tried"
    assert f"* ewc: regularizer.strength = 1.0 ({said}: {rule}{edge})" in text
    rows = [line for line in text.splitlines() if line.startswith("| ewc | regularizer")]
    assert [line.split("|")[-2].strip() for line in rows] == outcomes
    assert 'class=" good">taken' not in (tmp_path / "study.html").read_text()
    found = json.loads((tmp_path / "study.json").read_text())["sweeps"]["ewc"]["tried"]
    assert [one["is_tied"] for one in found] == [bool(outcome) for outcome in outcomes]
    table = csv.DictReader((tmp_path / "sweeps.csv").read_text().splitlines())
    assert [row["tied"] == "true" for row in table] == [bool(outcome) for outcome in outcomes]


def test_without_a_sweep_there_is_no_table_of_one(
    table: Table, make_arm: Make, tmp_path: Path
) -> None:
    write(table, tmp_path, title="Tickets")
    write(tabulate(make_arm("ewc", 0.8, seeds=2)), tmp_path, title="Tickets")
    assert not (tmp_path / "sweeps.csv").exists()
    assert "sweeps" not in (tmp_path / "study.md").read_text()
