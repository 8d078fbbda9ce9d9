"""What the sweeps tried on the validation stream, and which of it an arm gets. Pure.

Made by `updater.study.conduct`; told by `updater.study.report.sweep_report` and `exports`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from updater.study.measures import measures
from updater.study.results import Run

_ROUNDING = 1e-9
"""Of means that differ by no more the sums were rounded differently. Accuracies are of whole
examples: a true difference is at least one over examples times seeds."""

Choice = Mapping[str, Any]
"""Setting -> value."""


@dataclass(frozen=True)
class Try:
    """One choice, with its run for each seed of the validation stream."""

    choice: Choice
    runs: tuple[Run, ...]

    @cached_property
    def accuracies(self) -> dict[int, float | None]:
        """Seed -> final average accuracy, 0..1; None where the run stopped before its end."""
        found = {run.seed: measures(run) for run in self.runs}
        return {
            seed: None if numbers is None else numbers.final_average_accuracy
            for seed, numbers in found.items()
        }

    @property
    def mean(self) -> float | None:
        """Over the seeds; None where one of them has none."""
        known = [one for one in self.accuracies.values() if one is not None]
        return sum(known) / len(known) if known and len(known) == len(self.runs) else None

    @property
    def failures(self) -> dict[int, str]:
        """Seed -> why it stopped."""
        return {run.seed: run.failure for run in self.runs if run.failure}


@dataclass(frozen=True)
class Sweep:
    """All that was tried for one arm, in the order in which the file names the values. Not whole
    while a run is missing whose worker failed: it is made when the study is run again, and may be
    the best."""

    arm: str
    tries: tuple[Try, ...]
    is_whole: bool = True

    @cached_property
    def best(self) -> tuple[Try, ...]:
        """The choices with the highest mean final average accuracy, in their order: more than one
        is a tie. None where every choice has a run that failed: a value at which one seed diverges
        is none to choose. None while it is not whole."""
        if not self.is_whole:
            return ()
        scored = {n: one.mean for n, one in enumerate(self.tries) if one.mean is not None}
        least = max(scored.values(), default=0.0) - _ROUNDING
        return tuple(self.tries[n] for n, mean in scored.items() if mean >= least)

    @cached_property
    def chosen(self) -> Try | None:
        """The best; of several that with the smallest values (texts: that which was named first),
        which says nothing against the others."""
        sizes = [
            (_size(one.choice, place), place)
            for place, one in enumerate(self.tries)
            if one in self.best
        ]
        return self.tries[min(sizes)[1]] if sizes else None

    @property
    def at_edge(self) -> tuple[str, ...]:
        """The settings of which every best value is the least or the greatest number that was
        tried: a better one may lie beyond. Not where one of a tie lies inside."""
        if self.chosen is None:
            return ()
        return tuple(setting for setting in self.chosen.choice if self._ends(setting))

    def _ends(self, setting: str) -> bool:
        tried = [one.choice[setting] for one in self.tries]
        return all(_is_end(one.choice[setting], tried) for one in self.best)


def _is_end(value: Any, tried: list[Any]) -> bool:
    if not all(_is_number(one) for one in tried) or len(set(tried)) == 1:
        return False
    return bool(value in (min(tried), max(tried)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(choice: Choice, place: int) -> list[float]:
    return [float(v) if isinstance(v, int | float) else float(place) for v in choice.values()]
