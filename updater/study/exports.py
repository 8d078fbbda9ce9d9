"""A study's table as JSON and CSV, for scripts.

Pure; nothing is written to disk here. Called by `updater.study.outputs` and `finish`.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from updater.study.comparison import Estimate
from updater.study.measures import NAMES
from updater.study.pairs import Compared, Ratio, compared
from updater.study.sweep import Sweep
from updater.study.tabulated import Arm, Table, chosen


def answer(table: Table) -> dict[str, Any]:
    """The JSON answer of `updater study`: arm -> measure -> a value for each of `seeds`, None
    where that run failed."""
    return {
        "seeds": list(table.seeds),
        "reference": table.reference,
        "arms": {arm.name: _per_seed(arm, table.seeds) for arm in table.arms},
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


def as_csv(table: Table) -> str:
    """A line for each arm and seed: its numbers, why it failed, and what a sweep chose."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["arm", "seed", *NAMES, "failure", "choice"])
    for arm in table.arms:
        for run in arm.runs:
            numbers = arm.measured.get(run.seed)
            cells = [None if numbers is None else getattr(numbers, name) for name in NAMES]
            writer.writerow([arm.name, run.seed, *cells, run.failure, chosen(run.choice)])
    return stream.getvalue()


def arms_csv(table: Table) -> str:
    """A line for each arm and measure: mean and interval, and the difference to the reference."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    difference = ("difference", "difference_low", "difference_high", "p_value", "adjusted_p")
    writer.writerow(
        ["arm", "measure", "num_seeds", "mean", "low", "high", "reference", *difference, "claim"]
    )
    for name in NAMES:
        against = {d.arm: d for d in table.differences(name)}
        claims = table.claims(name)
        for arm in table.arms:
            found, other = arm.estimate(name), against.get(arm.name)
            if found is None:
                continue
            cells: list[object] = [arm.name, name, found.num_seeds, *_numbers(found)]
            if other is not None:
                cells += [other.reference, *_numbers(other.estimate), other.p_value]
                cells += [other.adjusted_p, claims[arm.name]]
            writer.writerow(cells + [None] * (13 - len(cells)))
    return stream.getvalue()


def pairs_csv(table: Table) -> str:
    """A line for each declared pair; "" without one."""
    if not table.pairs:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    costs = (
        "seconds_ratio",
        "seconds_low",
        "seconds_high",
        "steps_ratio",
        "steps_low",
        "steps_high",
    )
    writer.writerow(
        [
            *("arm", "reference", "num_seeds", "difference", "difference_low", "difference_high"),
            *("p_value", "adjusted_p", "claim", "lower_bound", *costs),
        ]
    )
    for one in compared(table):
        known = one.accuracy
        cells: list[object] = (
            [None] * 5
            if known is None
            else [*_numbers(known.estimate), known.p_value, known.adjusted_p]
        )
        bound = None if known is None else known.lower_bound
        writer.writerow(
            [
                *(one.arm, one.reference, one.num_seeds, *cells, one.claim, bound),
                *_numbers(one.seconds),
                *_numbers(one.steps),
            ]
        )
    return stream.getvalue()


def sweeps_csv(table: Table) -> str:
    """A line for each choice of each sweep and each seed of the validation stream; "" without
    one."""
    if not table.sweeps:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    accuracy = "final_average_accuracy"
    writer.writerow(["arm", "choice", "seed", accuracy, "mean", "chosen", "at_edge", "failure"])
    for sweep in table.sweeps:
        for one in sweep.tries:
            is_chosen = one is sweep.chosen
            edge = ", ".join(sweep.at_edge) if is_chosen else ""
            for seed, value in one.accuracies.items():
                said = ("true" if is_chosen else "false", edge, one.failures.get(seed, ""))
                writer.writerow([sweep.arm, chosen(one.choice), seed, value, one.mean, *said])
    return stream.getvalue()


def _sweep(sweep: Sweep) -> dict[str, Any]:
    tried = [
        {
            "choice": dict(one.choice),
            "mean": one.mean,
            "accuracies": one.accuracies,
            "failures": one.failures,
            "is_chosen": one is sweep.chosen,
        }
        for one in sweep.tries
    ]
    return {"tried": tried, "at_edge": list(sweep.at_edge)}


def _pair(one: Compared) -> dict[str, Any]:
    bound = None if one.accuracy is None else one.accuracy.lower_bound
    return {**dataclasses.asdict(one), "claim": one.claim, "lower_bound": bound}


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
