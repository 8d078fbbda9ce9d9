"""A study's table as JSON and CSV, for scripts.

Pure; nothing is written to disk here. Called by `updater.study.report.outputs` and `finish`.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from updater.study.comparison import Difference, Estimate
from updater.study.compressions import compressions
from updater.study.measures import NAMES
from updater.study.pairs import COSTS, Compared, Ratio, compared
from updater.study.ratios import ratios
from updater.study.sweep import Sweep, Try
from updater.study.tabulated import Arm, Table, chosen
from updater.study.ways import Way


def answer(table: Table) -> dict[str, Any]:
    """The JSON answer of `updater study`: arm -> measure -> a value for each of `seeds`, None
    where that run failed; and of arms that compress what each period pays."""
    return {
        "seeds": list(table.seeds),
        "reference": table.reference,
        "arms": {arm.name: _per_seed(arm, table.seeds) for arm in table.arms},
        **({"compressions": _compressions(table)} if table.ways else {}),
    }


def as_json(table: Table) -> dict[str, Any]:
    """The answer, and with it means, intervals, differences and claims."""
    return {
        **answer(table),
        "estimates": {
            arm.name: {
                name: dataclasses.asdict(found)
                for name in NAMES
                if (found := arm.estimate(name)) is not None
            }
            for arm in table.arms
        },
        "differences": {name: _differences(table, name) for name in NAMES},
        "pairs": [_pair(one) for one in compared(table)],
        "sweeps": {one.arm: _sweep(one) for one in table.sweeps},
        "choices": {
            arm.name: {run.seed: dict(run.choice) for run in arm.runs if run.choice}
            for arm in table.arms
        },
    }


def runs_csv(table: Table) -> str:
    """A line for each arm and seed: its numbers, why it failed, and what a sweep chose."""
    rows = [
        [
            *(arm.name, run.seed),
            *(getattr(arm.measured.get(run.seed), name, None) for name in NAMES),
            *(run.failure, chosen(run.choice)),
        ]
        for arm in table.arms
        for run in arm.runs
    ]
    return _csv(("arm", "seed", *NAMES, "failure", "choice"), rows)


def arms_csv(table: Table) -> str:
    """A line for each arm and measure: mean and interval, and the difference to the reference."""
    rows = []
    for name in NAMES:
        against = {d.arm: d for d in table.differences(name)}
        claims = table.claims(name)
        for arm in table.arms:
            found, other = arm.estimate(name), against.get(arm.name)
            if found is None:
                continue
            row = [arm.name, name, found.num_seeds, *_numbers(found)]
            if other is not None:
                row += [other.reference, *_difference(other), claims[arm.name]]
            rows.append(row)
    estimated = ("arm", "measure", "num_seeds", "mean", "low", "high")
    return _csv((*estimated, "reference", *_DIFFERENCE, "claim"), rows)


def pairs_csv(table: Table) -> str:
    """A line for each declared pair; "" without one."""
    rows = [
        [
            *(one.arm, one.reference, one.num_seeds),
            *_difference(one.accuracy),
            *(one.claim, one.lower_bound),
            *(number for cost in COSTS for number in _numbers(getattr(one, cost))),
        ]
        for one in compared(table)
    ]
    costs = [f"{cost}_{part}" for cost in COSTS for part in ("ratio", "low", "high")]
    head = ("arm", "reference", "num_seeds", *_DIFFERENCE, "claim", "lower_bound", *costs)
    return _csv(head, rows) if rows else ""


def sweeps_csv(table: Table) -> str:
    """A line for each choice of each sweep and each seed of the validation stream; "" without
    one."""
    rows = [
        [
            *(sweep.arm, chosen(one.choice), seed, value, one.mean),
            "true" if one is sweep.chosen else "false",
            "true" if _is_tied(sweep, one) else "false",
            ", ".join(sweep.at_edge) if one is sweep.chosen else "",
            one.failures.get(seed, ""),
        ]
        for sweep in table.sweeps
        for one in sweep.tries
        for seed, value in one.accuracies.items()
    ]
    accuracy = "final_average_accuracy"
    head = ("arm", "choice", "seed", accuracy, "mean", "chosen", "tied", "at_edge", "failure")
    return _csv(head, rows) if rows else ""


def ratios_csv(table: Table) -> str:
    """A line for each arm and number of past periods: what its update reached and cost, as a part
    of scratch's; "" without scratch."""
    rows = [
        [arm, name, num_past, found.num_seeds, *_numbers(found)]
        for name, curves in ratios(table).items()
        for arm, curve in curves.items()
        for num_past, found in curve.items()
    ]
    head = ("arm", "measure", "past_periods", "num_seeds", "mean", "low", "high")
    return _csv(head, rows) if rows else ""


def compressions_csv(table: Table) -> str:
    """A line for each arm that compresses and each period: how, and the accuracy with its change;
    "" without one."""
    rows = [
        [
            *(one.arm.name, *_way(one.way).values(), period, found.num_seeds, *_numbers(found)),
            *_numbers(one.changes.get(period)),
        ]
        for one in compressions(table)
        for period, found in one.periods.items()
    ]
    changes = ("change", "change_low", "change_high")
    head = ("arm", *WAY, "period", "num_seeds", "mean", "low", "high", *changes)
    return _csv(head, rows) if rows else ""


WAY = ("method", "remove", "sparsity", "pattern", "quantize", "recovery", "control")
"""What is told of how an arm compresses."""


def _way(way: Way) -> dict[str, Any]:
    """Of `WAY`; None is what is not there, or what the method does not come to."""
    given = way.settings
    told = {name: getattr(given, name) for name in WAY[:-1]} | {"control": way.control}
    if not way.what:
        told |= {"method": None, "remove": None}
    if given.pattern != "none" or not way.what:
        told["sparsity"] = None
    return {name: None if told[name] == "none" else told[name] for name in WAY}


def _compressions(table: Table) -> dict[str, Any]:
    """Arm -> how it compresses, and what that costs in all and on each period."""
    return {
        one.arm.name: {
            **_way(one.way),
            "change": None if one.change is None else dataclasses.asdict(one.change),
            "worst_period": None if one.worst is None else one.worst[0],
            "periods": {
                period: {
                    "accuracy": dataclasses.asdict(found),
                    "change": dataclasses.asdict(one.changes[period])
                    if period in one.changes
                    else None,
                }
                for period, found in one.periods.items()
            },
        }
        for one in compressions(table)
    }


_DIFFERENCE = ("difference", "difference_low", "difference_high", "p_value", "adjusted_p")


def _difference(found: Difference | None) -> list[float | None]:
    """The cells of `_DIFFERENCE`."""
    if found is None:
        return [None] * len(_DIFFERENCE)
    return [*_numbers(found.estimate), found.p_value, found.adjusted_p]


def _csv(head: Sequence[str], rows: Iterable[list[Any]]) -> str:
    """The lines; a row that ends early has nothing in its last columns."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([*row, *[None] * (len(head) - len(row))] for row in rows)
    return stream.getvalue()


def _sweep(sweep: Sweep) -> dict[str, Any]:
    tried = [
        {
            "choice": dict(one.choice),
            "mean": one.mean,
            "accuracies": one.accuracies,
            "failures": one.failures,
            "is_chosen": one is sweep.chosen,
            "is_tied": _is_tied(sweep, one),
        }
        for one in sweep.tries
    ]
    return {"tried": tried, "at_edge": list(sweep.at_edge)}


def _is_tied(sweep: Sweep, one: Try) -> bool:
    """It is one of several best."""
    return len(sweep.best) > 1 and one in sweep.best


def _pair(one: Compared) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "claim": one.claim, "lower_bound": one.lower_bound}


def _numbers(found: Estimate | Ratio | None) -> list[float | None]:
    """Mean, low, high."""
    if found is None:
        return [None, None, None]
    bounds = found.interval
    return [found.mean, *((None, None) if bounds is None else (bounds.low, bounds.high))]


def _per_seed(arm: Arm, seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: [getattr(arm.measured.get(seed), name, None) for seed in seeds] for name in NAMES
    }
    return {**found, "failures": arm.failures} if arm.failures else found


def _differences(table: Table, measure: str) -> list[dict[str, Any]]:
    claims = table.claims(measure)
    return [
        {**dataclasses.asdict(found), "claim": claims[found.arm]}
        for found in table.differences(measure)
    ]
