"""A study in MLflow: a parent run with the page, and below it one run for each arm and seed.

Everything here can be made again from the table; nothing is decided by it. Publishing again finds
the runs by their keys and adds only what is new.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from store.points import Point
from store.registry import PARENT, Registry
from updater.study.measures import NAMES, accuracy, measures, over_stream, served
from updater.study.results import Run
from updater.study.tabulated import Arm, Table, chosen


def publish(
    registry: Registry,
    table: Table,
    folder: Path,
    *,
    study: str,
    num_periods: int,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The id of the study's MLflow run, which has the files of `folder` as artifacts and a child
    for each arm and seed.

    A child's parameters are the arm's settings that differ between arms, and what a sweep chose;
    its metrics the measures and, by stage of the stream, `accuracy/PERIOD` and `average_accuracy`.
    A run that failed ends as FAILED with its reason as a tag.

    Args:
        study: its name, without quotes; with the arm and seed it is the key of a run. A study whose
            settings changed needs another name, such as one with their digest.
        num_periods: of the planned stream, which no run may have reached the end of yet.
        settings: arm -> setting -> value.

    Raises:
        ConflictError: a run of that key was published with other settings.
        UnreachableError, StoreError: MLflow can't be reached or refuses; publish again.
    """
    parent = registry.open_run(
        f"study {study}",
        run_name=study,
        parameters={"reference": table.reference, "num_periods": num_periods},
    )
    for arm in table.arms:
        for run in arm.runs:
            _publish_run(registry, run, parent, study, dict((settings or {}).get(arm.name, {})))
    registry.log_summary(parent, _summary(table))
    registry.log_artifacts(parent, folder)
    registry.close_run(parent)
    return parent


def _publish_run(
    registry: Registry, run: Run, parent: str, study: str, settings: dict[str, Any]
) -> None:
    key = f"study {study}: {run.arm}, seed {run.seed}"
    run_id = registry.open_run(
        key,
        run_name=f"{run.arm} · seed {run.seed}",
        parameters={"arm": run.arm, "seed": run.seed, **settings, **run.choice},
        tags={PARENT: parent},
    )
    registry.log_curve(run_id, _curve(run))
    numbers = measures(run)
    found: dict[str, float | str | bool | None] = {"failure": run.failure}
    if numbers is not None:
        found |= {name: getattr(numbers, name) for name in NAMES}
    registry.log_summary(run_id, found)
    if run.failure:
        registry.stop_run(key, "FAILED")
    else:
        registry.close_run(run_id)


def _curve(run: Run) -> list[Point]:
    """The scores by stage, of a replay those that users had. A point's time is its stage's number,
    for want of a true one: so the same point told again is the same, and MLflow keeps it once."""
    run = served(run)
    points = []
    for i, average in enumerate(over_stream(run)):
        scores = {f"accuracy/{period}": accuracy(run, i, period) for period in run.stages[i].scores}
        known = {**scores, "average_accuracy": average}
        metrics = {name: value for name, value in known.items() if value is not None}
        points.append(Point(i, i, metrics))
    return points


def _summary(table: Table) -> dict[str, float | str | bool | None]:
    """The arms' final average accuracies, and words on what the study is."""
    found: dict[str, float | str | bool | None] = {
        f"final_average_accuracy/{_plain(arm.name)}": estimate.mean
        for arm in table.arms
        if (estimate := arm.estimate("final_average_accuracy")) is not None
    }
    return {**found, "mlflow.note.content": "\n".join(_notes(table.arms))}


def _notes(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for arm in arms:
        found = arm.estimate("final_average_accuracy")
        said = "no seed finished" if found is None else f"{100 * found.mean:.1f} %"
        swept = dict.fromkeys(chosen(run.choice) for run in arm.runs if run.choice)
        lines.append(f"* {arm.name}: {said}" + "".join(f" ({choice})" for choice in swept))
    return lines


def _plain(name: str) -> str:
    """As MLflow allows in a metric's name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "-" for c in name)
