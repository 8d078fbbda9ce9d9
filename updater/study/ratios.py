"""What an update reaches and costs, as a part of scratch on everything, by number of past periods.

Pure. Called by the plots, the page and the JSON.
"""

from collections.abc import Callable, Mapping, Sequence

from updater.study.comparison import Estimate, estimate
from updater.study.measures import over_stream, served
from updater.study.results import Run
from updater.study.tabulated import Arm, Table

Curve = Mapping[int, Estimate]
"""At whole numbers, such as stages of the stream or past periods."""


def ratios(table: Table) -> dict[str, dict[str, Curve]]:
    """ "accuracy", "steps" and "seconds" -> arm -> number of past periods when an update began ->
    its ratio to `Table.scratch` with the same seed, over seeds. Accuracy is over all periods learnt
    by then.

    Empty where there is no such arm. Updates at which one trained nothing because it does at the
    last alone (`every = "last"`) are no measure, neither of it nor of others. Of steps
    and seconds, arms whose ratios are all 0 are left out: they do nothing. An accuracy of 0 is a
    result.
    """
    whole = table.arm(table.scratch)
    if whole is None:
        return {}
    found: dict[str, dict[str, Curve]] = {}
    for name, of in _OF.items():
        base = {run.seed: _where_trained(run, of(run)) for run in whole.finished}
        curves = {}
        for arm in table.arms:
            own = {run.seed: _where_told(arm, run, of(run)) for run in arm.finished}
            curve = over_seeds(
                [
                    {x: _over(value, base[seed].get(x)) for x, value in values.items()}
                    for seed, values in own.items()
                    if seed in base
                ]
            )
            says = curve if name == "accuracy" else any(one.mean for one in curve.values())
            if arm.name != table.scratch and says:
                curves[arm.name] = curve
        found[name] = curves
    return found


def over_seeds(seeds: Sequence[Mapping[int, float | None]]) -> Curve:
    """The estimate at each x at which some seed has a value."""
    xs = sorted({x for seed in seeds for x, y in seed.items() if y is not None})
    return {x: estimate([y for seed in seeds if (y := seed.get(x)) is not None]) for x in xs}


def over_updates(arm: Arm) -> Curve:
    """After the first model and each update, what `over_stream` says of the models that users had,
    over the finished seeds."""
    return over_seeds([dict(enumerate(over_stream(served(run)))) for run in arm.finished])


def _where_told(
    arm: Arm, run: Run, values: Mapping[int, float | None]
) -> Mapping[int, float | None]:
    return _where_trained(run, values) if arm.learnt_at_last_alone else values


def _where_trained(run: Run, values: Mapping[int, float | None]) -> dict[int, float | None]:
    return {x: values[x] for x, steps in _steps(run).items() if steps}


def _accuracies(run: Run) -> dict[int, float | None]:
    return {len(run.learnt_first) + i: a for i, a in enumerate(over_stream(served(run))[1:])}


def _steps(run: Run) -> dict[int, float | None]:
    return {len(run.learnt_first) + i: stage.steps for i, stage in enumerate(run.stages[1:])}


def _seconds(run: Run) -> dict[int, float | None]:
    return {len(run.learnt_first) + i: stage.seconds for i, stage in enumerate(run.stages[1:])}


_OF: Mapping[str, Callable[[Run], dict[int, float | None]]] = {
    "accuracy": _accuracies,
    "steps": _steps,
    "seconds": _seconds,
}


def _over(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else value / whole
