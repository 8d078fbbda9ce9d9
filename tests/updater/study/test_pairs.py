"""Declared pairs: ratios and bounds against hand-worked cases and SciPy's own, and what is told."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from updater.study.comparison import Pairing, family
from updater.study.pairs import compared, ratio
from updater.study.plan import Pair
from updater.study.report.exports import as_json, pairs_csv
from updater.study.report.outputs import write
from updater.study.report.pair_report import sentences, sheet
from updater.study.results import Run
from updater.study.tabulated import Table, tabulate

Make = Callable[..., list[Run]]
PAIRS = (Pair("rehearsal", "ewc"), Pair("rehearsal+ewc", "rehearsal"), Pair("ewc", "finetune"))


def pairing(values: dict[int, float], base: dict[int, float]) -> Pairing:
    return Pairing("one", "other", values, base)


def test_a_ratio_and_its_interval_are_as_worked_by_hand() -> None:
    """The logs of 1, 2 and 4: their mean and s are log 2; t(2, 0.975) is 4.302653."""
    found = ratio(pairing({0: 3.0, 1: 10.0, 2: 8.0}, {0: 3.0, 1: 5.0, 2: 2.0}))
    assert found is not None
    assert found.interval is not None
    half = 4.302653 * math.log(2) / math.sqrt(3)
    assert (found.mean, found.num_seeds) == (pytest.approx(2), 3)
    assert found.interval.low == pytest.approx(2 * math.exp(-half), rel=1e-6)
    assert found.interval.high == pytest.approx(2 * math.exp(half), rel=1e-6)


COST = st.floats(0.1, 9).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(COST, COST), min_size=1, max_size=6))
def test_the_other_way_round_a_ratio_is_one_over_it(values: list[tuple[float, float]]) -> None:
    one, other = (dict(enumerate(side)) for side in zip(*values, strict=True))
    there, back = ratio(pairing(one, other)), ratio(pairing(other, one))
    assert there is not None
    assert back is not None
    assert there.mean * back.mean == pytest.approx(1)
    assert (there.interval is None) is (back.interval is None)
    if there.interval is not None and back.interval is not None:
        assert there.interval.low * back.interval.high == pytest.approx(1)


def test_without_a_spread_a_ratio_has_no_interval() -> None:
    for seeds in (1, 4):
        found = ratio(pairing(dict.fromkeys(range(seeds), 90), dict.fromkeys(range(seeds), 120)))
        assert found is not None
        assert (found.mean, found.num_seeds) == (pytest.approx(0.75), seeds)
        assert found.interval is None


@pytest.mark.parametrize("base", [{}, {1: 2.0}, {0: 0.0}])
def test_what_did_nothing_or_has_no_seed_in_common_has_no_ratio(base: dict[int, float]) -> None:
    assert ratio(pairing({0: 3.0}, base)) is None


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8))
def test_the_lower_bound_is_that_of_the_one_sided_test(values: list[float]) -> None:
    (found,) = family([pairing(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))])
    assert found is not None
    if len(set(values)) == 1:
        assert found.lower_bound is None
    else:
        tested = scipy.stats.ttest_1samp(values, 0, alternative="greater")
        low = tested.confidence_interval(0.95).low
        assert found.lower_bound == pytest.approx(low, abs=1e-9)


def table(runs: list[Run], *pairs: Pair) -> Table:
    return tabulate(runs, pairs=pairs or PAIRS)


def test_the_pairs_are_one_family_in_the_files_order(make_study: Make) -> None:
    found = compared(table(make_study()))
    assert [(one.arm, one.reference) for one in found] == [(p.arm, p.reference) for p in PAIRS]
    known = [one.accuracy for one in found]
    p_values = sorted(one.p_value for one in known if one is not None and one.p_value is not None)
    smallest = min((one for one in known if one is not None), key=lambda d: d.p_value or 0)
    assert smallest.adjusted_p == pytest.approx(3 * p_values[0])
    assert [one.claim for one in found] == ["better", "better", "better"]
    assert found[0].steps is not None
    assert found[0].steps.mean == pytest.approx(130 / 92)
    assert found[0].tokens is not None


def test_a_pair_without_a_test_is_corrected_for_as_well(make_study: Make) -> None:
    runs = [run for run in make_study() if run.arm != "lwf" or run.seed == 0]
    two = compared(table(runs, PAIRS[0], PAIRS[2]))[0].accuracy
    three = compared(table(runs, PAIRS[0], PAIRS[2], Pair("lwf", "ewc")))
    assert two is not None
    assert three[0].accuracy is not None
    assert three[0].accuracy.adjusted_p == pytest.approx(1.5 * (two.adjusted_p or 0))
    assert (three[2].num_seeds, three[2].claim) == (1, "undecided")


def test_every_report_has_the_pairs(make_study: Make, tmp_path: Path) -> None:
    write(table(make_study(3)), tmp_path, title="Tickets")
    for name in ("study.html", "study.md"):
        text = (tmp_path / name).read_text()
        assert "rehearsal is better than ewc: +" in text
        assert re.search(r"times the optimizer steps, \S+ (\(.+\) )?times the tokens\.", text)
    kept = json.loads((tmp_path / "study.json").read_text())["pairs"]
    assert [one["claim"] for one in kept] == ["better", "undecided", "better"]
    rows = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert len(rows) == 3
    for row, one in zip(rows, kept, strict=True):
        assert float(row["lower_bound"]) == one["lower_bound"] > float(row["difference_low"])
        assert float(row["difference"]) == one["accuracy"]["estimate"]["mean"]
        assert float(row["seconds_high"]) == one["seconds"]["interval"]["high"]
        assert (float(row["steps_ratio"]), row["steps_low"]) == (one["steps"]["mean"], "")


def test_without_pairs_nothing_is_said_of_them(make_study: Make, tmp_path: Path) -> None:
    write(table(make_study(2)), tmp_path, title="Tickets")
    write(tabulate(make_study(2)), tmp_path, title="Tickets")
    assert not (tmp_path / "pairs.csv").exists()
    for name in ("study.html", "study.md"):
        assert "eclared pairs" not in (tmp_path / name).read_text()


def flat(arm: str, accuracies: list[float], make: Make) -> list[Run]:
    """Runs with these final accuracies, in thousandths."""
    runs = make(arm, 0.9, seeds=len(accuracies))
    return [
        replace(
            run,
            stages=tuple(
                replace(s, scores=dict.fromkeys(s.scores, (round(1000 * value), 1000)))
                for s in run.stages
            ),
        )
        for run, value in zip(runs, accuracies, strict=True)
    ]


@pytest.mark.parametrize(
    ("accuracies", "said", "cell"),
    [
        # Differences 1, 0 and 2 points: mean 1, s / sqrt(3) 0.577, t(2, 0.95) 2.920: 1 - 1.686.
        ([0.81, 0.80, 0.82], "it is at most 0.7 points less accurate", "−0.7"),
        # 17, 8 and 28 thousandths: mean 17.67, s / sqrt(3) 5.78: 0.08 points, which is none.
        ([0.817, 0.808, 0.828], "it is at least as accurate", "+0.0"),
        ([0.911, 0.91, 0.912], "it is at least 10.9 points more accurate", "+10.9"),
    ],
)
def test_the_worst_case_is_said_plainly_and_never_rounded_up(
    make_arm: Make, accuracies: list[float], said: str, cell: str
) -> None:
    runs = [*flat("new", accuracies, make_arm), *flat("old", [0.8] * 3, make_arm)]
    found = table(runs, Pair("new", "old"))
    assert said in sentences(found)[0][1]
    columns = sheet(found)
    assert columns.rows[0][columns.columns.index("at worst")] == cell


def test_a_pair_with_one_seed_and_one_with_none_make_no_claim(make_arm: Make) -> None:
    one, other = make_arm("one", 0.9, seeds=1), make_arm("other", 0.5, seeds=1)
    gone = [Run("gone", 0, one[0].learnt_first, (), failure="killed")]
    found = table([*one, *other, *gone], Pair("one", "other"), Pair("gone", "other"))
    (single, said), (none, nothing) = sentences(found)
    assert (single, none) == ("unsure", "unsure")
    assert "with one seed, which shows no spread: no claim. It took " in said
    assert nothing == "gone and other have no seed in common: nothing can be compared."
    assert sheet(found).rows[1][2:] == ("0", *["–"] * 6, "undecided")
    plain: list[dict[str, Any]] = json.loads(json.dumps(as_json(found), allow_nan=False))["pairs"]
    assert plain[1]["accuracy"] is plain[1]["seconds"] is plain[0]["lower_bound"] is None
    assert pairs_csv(found).splitlines()[2] == "gone,other,0,,,,,,undecided" + "," * 10
