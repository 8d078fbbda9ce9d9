"""What a search tries next, how well it went, and which trial won: functions of numbers alone.

No training and no files: those are `updater.steps.search`'s, which calls this, as
`updater.opening` calls `check`. Optuna is imported on use: only a search needs it.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from updater.errors import InputError

NUM_RANDOM = 4
"""Trials of one's own or of earlier updates before TPE models them; until then values are drawn at
random. Optuna's default is 10, which a small budget would never reach. Chosen, not measured."""

DIVERGED = -1.0
"""What a trial that diverged counts as, in units of score over the configured values': no other
can do much worse. Chosen, not measured."""

Ranges = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Trial:
    """One short training with these `values` (name -> what was tried).

    `new` and `past` are accuracies on the examples held back, 0..1, `past` None where there is no
    past. `score` is None where training diverged; `error` then says how.
    """

    values: Mapping[str, float]
    new: float | None = None
    past: float | None = None
    score: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Trial(**...)` makes it again."""
        return dataclasses.asdict(self)


def check(num_trials: int) -> None:
    """A search of so many trials can be run here.

    Raises:
        InputError: Optuna is missing.
    """
    if num_trials and importlib.util.find_spec("optuna") is None:
        raise InputError(
            f"training.search.trials = {num_trials}",
            "a search needs Optuna, which is not installed",
            "install it with `pip install 'optuna>=5,<6'`, or set training.search.trials = 0",
        )


def score(new: float, past: float | None, *, base_past: float | None, margin: float) -> float:
    """How good a trial is: the mean of its accuracies on new and past examples, less what it lost
    of the past beyond the gate's margin.

    (new + past) / 2 - max(0, base_past - margin - past): within the margin a point of the past is
    worth a point of the new period, and beyond it three, because the gate turns such a candidate
    down whatever it has learnt. Our own choice, not measured. Without a past it is `new`.
    """
    if past is None or base_past is None:
        return new
    return (new + past) / 2 - max(0.0, base_past - margin - past)


def winner(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the highest score, the earliest of equals; None where all diverged."""
    whole = [trial for trial in trials if trial.score is not None]
    return max(whole, key=lambda trial: trial.score or 0.0, default=None)


def next_values(
    ranges: Ranges,
    tried: Sequence[Trial],
    *,
    configured: Mapping[str, float],
    earlier: Sequence[Sequence[Trial]],
    seed: int,
) -> dict[str, float]:
    """What the next trial of this update takes, after those it has `tried`.

    First what is configured, so that a search never ends below it on the examples held back; then
    what won in the newest of the `earlier` updates, where the ranges still hold it; then what TPE
    suggests (Bergstra et al. 2011; Optuna's TPESampler, multivariate) from all trials, those of
    earlier updates too. A function of its arguments: killed and run again, a search goes on as it
    would have. `seed` is at least 0.
    """
    ranges = {name: ranges[name] for name in sorted(ranges)}  # JSON does not keep an order
    planned = [{name: configured[name] for name in ranges}]
    won = winner(earlier[-1]) if earlier else None
    if won is not None and _fits(won, ranges) and dict(won.values) != planned[0]:
        planned.append({name: won.values[name] for name in ranges})
    if len(tried) < len(planned):
        return planned[len(tried)]
    return _suggested(ranges, [*earlier, tried], seed=seed + len(tried))


def _fits(trial: Trial, ranges: Ranges) -> bool:
    return set(trial.values) == set(ranges) and all(
        low <= trial.values[name] <= high for name, (low, high) in ranges.items()
    )


def _suggested(
    ranges: Ranges, updates: Sequence[Sequence[Trial]], *, seed: int
) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high, log=name != "rehearsal_fraction")
        for name, (low, high) in ranges.items()
    }
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=NUM_RANDOM, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trials in updates:
        for trial, value in zip(trials, _relative(trials), strict=True):
            if _fits(trial, ranges):
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(trial.values), distributions=space, value=value
                    )
                )
    drawn = study.ask(space).params
    return {name: _short(drawn[name], *limits) for name, limits in ranges.items()}


def _relative(trials: Sequence[Trial]) -> list[float]:
    """Scores over that of the same update's first trial, the configured values, or over the mean
    where it diverged: one update's examples are harder than another's, which says nothing of what
    was tried."""
    known = [trial.score for trial in trials if trial.score is not None]
    mean = sum(known) / len(known) if known else 0.0
    level = mean if not trials or trials[0].score is None else trials[0].score
    return [DIVERGED if trial.score is None else trial.score - level for trial in trials]


def _short(value: float, low: float, high: float) -> float:
    """Four digits, which people can read and type, within the range."""
    return min(max(float(f"{value:.4g}"), low), high)
