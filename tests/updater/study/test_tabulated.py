"""Runs as a table, JSON and CSV; what can't be tabulated is refused."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from updater.errors import InputError
from updater.study.report.exports import answer, as_json, runs_csv
from updater.study.results import Run
from updater.study.tabulated import chosen, tabulate

Make = Callable[..., list[Run]]


def test_the_answer_has_every_arm_and_seed_in_order(make_study: Make) -> None:
    found = answer(tabulate(list(reversed(make_study(3)))))
    assert found["seeds"] == [0, 1, 2]
    for measures in found["arms"].values():
        for name in (
            *("final_average_accuracy", "new_accuracy", "backward_transfer", "worst_forgetting"),
            *("steps", "seconds"),
        ):
            assert len(measures[name]) == 3


def test_a_failed_seed_is_null_and_its_reason_stands_beside(make_study: Make) -> None:
    found = json.loads(json.dumps(answer(tabulate(make_study(3)))))["arms"]["si"]
    assert found["final_average_accuracy"][2] is None
    assert found["final_average_accuracy"][0] > 0
    assert found["failures"] == {"2": "diverged: the loss is not finite"}


def test_the_json_is_plain_and_claims_the_order_that_was_put_in(make_study: Make) -> None:
    found = json.loads(json.dumps(as_json(tabulate(make_study())), allow_nan=False))
    claims = {d["arm"]: d["claim"] for d in found["differences"]["final_average_accuracy"]}
    assert claims["finetune"] == "worse"
    assert claims["scratch"] == "better"
    assert "rehearsal" not in claims
    assert found["differences"]["steps"][0]["claim"] == "better"  # fewer


def test_the_csv_has_a_line_for_each_run(make_study: Make) -> None:
    rows = list(csv.DictReader(io.StringIO(runs_csv(tabulate(make_study(2))))))
    assert len(rows) == 14
    assert rows[-1]["failure"].startswith("diverged")
    assert rows[-1]["final_average_accuracy"] == ""


def test_without_a_named_reference_it_is_rehearsal_or_the_first(make_arm: Make) -> None:
    one, two = make_arm("one", 0.5), make_arm("rehearsal", 0.9)
    assert tabulate([*one, *two]).reference == "rehearsal"
    assert tabulate(one).reference == "one"
    assert tabulate([*one, *two], "one").reference == "one"


def test_an_unknown_reference_is_refused_with_the_arms(make_arm: Make) -> None:
    with pytest.raises(InputError, match="the arms are one"):
        tabulate(make_arm("one", 0.5), "rehersal")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (100.0, "100.0"),
        (1e10, "1e+10"),
        (1234567.5, "1234567.5"),
        (10**9, "1000000000"),
        ("a", "a"),
    ],
)
def test_a_choice_can_be_read(value: Any, said: str) -> None:
    assert chosen({"regularizer.strength": value}) == f"regularizer.strength = {said}"


def test_no_runs_are_refused() -> None:
    with pytest.raises(InputError, match="without runs"):
        tabulate([])


def test_an_arm_that_ran_twice_with_a_seed_is_refused(make_arm: Make) -> None:
    runs = make_arm("one", 0.5)
    with pytest.raises(ValueError, match="two runs with seed 0"):
        tabulate([*runs, runs[0]])


def test_an_arm_of_which_all_seeds_failed_has_its_row(make_arm: Make) -> None:
    good = make_arm("rehearsal", 0.9, seeds=2)
    bad = [Run("bad", s, good[0].learnt_first, good[0].stages[:1], failure="nan") for s in (0, 1)]
    table = tabulate([*good, *bad])
    assert answer(table)["arms"]["bad"]["steps"] == [None, None]
    assert table.differences("steps") == []


def test_a_reference_that_failed_altogether_compares_with_nothing(make_arm: Make) -> None:
    good = make_arm("good", 0.9, seeds=2)
    bad = [Run("bad", s, good[0].learnt_first, good[0].stages[:1], failure="nan") for s in (0, 1)]
    assert tabulate([*good, *bad], "bad").differences("final_average_accuracy") == []
