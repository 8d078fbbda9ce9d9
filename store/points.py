"""Curves, scores and summaries as the metrics and tags that MLflow takes. Pure; nothing is sent.

MLflow keeps every point it is told, by name, step, time and value, so saying a thing twice with
another time would draw it twice: what is known already is left out here, and a point of a curve
keeps its time. It can't keep NaN (mlflow#26108), and it loses metrics of one name for several
datasets at one step, hence a name for each period. Called by `store.registry`; `updater.steps`
makes the points.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric, RunTag

BY_PERIOD = "accuracy_by_period"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """The metrics of one step. `at_ms`, Unix milliseconds, is when they were taken."""

    step: int
    at_ms: int
    metrics: Mapping[str, float]


def curve(points: Sequence[Point]) -> list[Metric]:
    """The points' metrics; those that are not finite are left out with a warning."""
    kept, skipped = [], []
    for point in points:
        for name, value in point.metrics.items():
            if math.isfinite(value):
                kept.append(_metric(name, value, point.at_ms, point.step))
            else:
                skipped.append(f"{name} at step {point.step}")
    if skipped:
        log.warning("not finite, so not in MLflow: %s", ", ".join(skipped))
    return kept


def steps_of(accuracy: Mapping[str, float], ordinals: Mapping[str, int]) -> dict[str, int]:
    """The ordinal of each period, in their order.

    Raises:
        ValueError: an accuracy outside [0, 1], or a period without an ordinal of its own.
    """
    for period, value in accuracy.items():
        if not 0 <= value <= 1:
            raise ValueError(f"accuracy of {period}: {value}; must lie in [0, 1], or be left out")
    steps = {period: ordinals[period] for period in accuracy if period in ordinals}
    if len(set(steps.values())) != len(accuracy):
        raise ValueError(f"ordinals {dict(ordinals)}: must give each of {list(accuracy)} its own")
    return dict(sorted(steps.items(), key=lambda item: item[1]))


def scores(
    accuracy: Mapping[str, float],
    steps: Mapping[str, int],
    *,
    known: Mapping[str, float],
    drawn: Sequence[Metric],
    now_ms: int,
) -> list[Metric]:
    """What is new in `accuracy`: `accuracy/PERIOD`, and the curve over the periods by `steps`.

    `known` are the run's latest metrics, `drawn` the history of the curve.
    """
    newest = {point.step: point.value for point in sorted(drawn, key=lambda p: p.timestamp)}
    single = {period: f"accuracy/{period}" for period in steps}
    return [
        _metric(single[period], accuracy[period], now_ms, 0)
        for period in steps
        if known.get(single[period]) != accuracy[period]
    ] + [
        _metric(BY_PERIOD, accuracy[period], now_ms, step)
        for period, step in steps.items()
        if newest.get(step) != accuracy[period]
    ]


def summary(
    values: Mapping[str, float | str | bool | None], known: Mapping[str, float], now_ms: int
) -> tuple[list[Metric], list[RunTag]]:
    """Numbers that are new as metrics, words and truths as tags; None is absent.

    Raises:
        ValueError: a number is not finite.
    """
    from mlflow.entities import RunTag

    metrics, tags = [], []
    for name, value in values.items():
        if isinstance(value, bool | str):
            tags.append(RunTag(name, str(value)))
        elif value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: {value}; must be finite, or None where there is none")
        elif value is not None and known.get(name) != value:
            metrics.append(_metric(name, value, now_ms, 0))
    return metrics, tags


def _metric(name: str, value: float, at_ms: int, step: int) -> Metric:
    from mlflow.entities import Metric

    return Metric(name, float(value), at_ms, step)
