"""What one run of a study comes to: a few numbers, from its stages.

Not over seeds (`updater.study.comparison`). Called by what tabulates, draws and publishes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields

from updater import metrics
from updater.metrics import Chain
from updater.study.results import Run


@dataclass(frozen=True)
class Measures:
    """Of one arm with one seed. Accuracies are fractions; None is what can't be known: transfers
    and forgetting of a stream without an update, or where a score is missing.

    Args:
        final_average_accuracy: mean over all periods of the stream, each with the same weight, at
            its end.
        new_accuracy: mean over the updates of the accuracy on the period that was just learnt.
        backward_transfer, forward_transfer: Lopez-Paz & Ranzato (2017), equations 3 and 4.
        worst_forgetting: max over periods of best score so far minus final score; negative where
            all gained.
        seconds, steps, tokens: summed over the updates; the first model's training is not in them,
            because all arms start from it.
        peak_memory_bytes: of the process; 0 where it was not measured.
        importance_bytes: the most that an update's importance took in memory; None where it was
            not measured.
        num_parameters, nonzero_fraction, num_bytes, bytes_ratio, speed_ratio: of what was
            compressed, as `Compressed` has them; None of all else. Its seconds, steps and
            tokens are among those of the updates.
    """

    final_average_accuracy: float | None
    new_accuracy: float | None
    backward_transfer: float | None
    forward_transfer: float | None
    worst_forgetting: float | None
    seconds: float
    steps: int
    tokens: int
    peak_memory_bytes: int
    importance_bytes: int | None = None
    num_parameters: int | None = None
    nonzero_fraction: float | None = None
    num_bytes: int | None = None
    bytes_ratio: float | None = None
    speed_ratio: float | None = None


NAMES = tuple(field.name for field in fields(Measures))
ACCURACIES = NAMES[:5]  # those in fractions of right answers
SIZES = NAMES[-5:]  # those of what was compressed


def measures(run: Run) -> Measures | None:
    """The run's numbers; None where it failed, because half a stream compares with nothing.

    Of a replay they are those of what users had, see `served`.
    """
    if run.failure:
        return None
    run = served(run)
    stream = chain(run)
    updates = run.stages[1:]
    forgotten = metrics.forgetting(stream)
    held = [s.importance_bytes for s in updates if s.importance_bytes is not None]
    smaller = run.compressed
    return Measures(
        final_average_accuracy=metrics.average(stream),
        new_accuracy=mean([accuracy(run, i + 1, s.period) for i, s in enumerate(updates)]),
        backward_transfer=metrics.backward_transfer(stream),
        forward_transfer=metrics.forward_transfer(stream),
        worst_forgetting=_largest(list(forgotten.values())),
        seconds=sum(stage.seconds for stage in updates) + (smaller.seconds if smaller else 0.0),
        steps=sum(stage.steps for stage in updates) + (smaller.steps if smaller else 0),
        tokens=sum(stage.tokens for stage in updates) + (smaller.tokens if smaller else 0),
        peak_memory_bytes=run.peak_memory_bytes,
        importance_bytes=max(held, default=None),
        **({} if smaller is None else {name: getattr(smaller, name) for name in SIZES}),
    )


def chain(run: Run) -> Chain:
    """The run as a score matrix: a row for each stage, a column for each period of the stream."""
    periods = run.periods
    num_first = len(run.learnt_first)
    return Chain(
        versions=tuple(str(i) for i in range(len(run.stages))),
        periods=periods,
        accuracy=tuple(
            tuple(accuracy(run, i, period) for period in periods) for i in range(len(run.stages))
        ),
        learnt_at=tuple(max(0, j - num_first + 1) for j in range(len(periods))),
    )


def accuracy(run: Run, stage: int, period: str) -> float | None:
    """0..1; None where that stage was not scored on the period, or the period has no holdout."""
    right, number = run.stages[stage].scores.get(period, (0, 0))
    return right / number if number else None


def served(run: Run) -> Run:
    """The run as users had it: where a stage was not deployed, the scores of the one before."""
    stages = list(run.stages[:1])
    for stage in run.stages[1:]:
        scores = stage.scores if stage.deployed else stages[-1].scores
        stages.append(dataclasses.replace(stage, scores=scores))
    return dataclasses.replace(run, stages=tuple(stages))


def over_stream(run: Run) -> list[float | None]:
    """After each stage, the mean accuracy over the periods learnt by then."""
    num_first = len(run.learnt_first)
    return [
        mean([accuracy(run, i, period) for period in run.periods[: num_first + i]])
        for i in range(len(run.stages))
    ]


def mean(values: Sequence[float | None]) -> float | None:
    """Of all values; None where one is missing, or there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
