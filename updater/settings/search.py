"""The section training.search: what a search may change, and between which bounds."""

import math
from dataclasses import dataclass

from updater.settings.rules import at_least, fraction

# What a search may change: its name in [training.search] -> where it is configured.
SEARCHED = {
    "strength": ("regularizer", "strength"),
    "learning_rate": ("training", "learning_rate"),
    "rehearsal_fraction": ("rehearsal", "fraction"),
}


def _range(name: str, given: tuple[float, ...], *, low_open: bool) -> None:
    if given and not (len(given) == 2 and all(map(math.isfinite, given)) and given[0] < given[1]):
        raise ValueError(f"{name}: must be two numbers, [low, high], low below high, or left out")
    if given and (given[0] <= 0 if low_open else given[0] < 0):
        raise ValueError(f"{name}: must begin {'above' if low_open else 'at or above'} 0")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """`trials` short trainings before each update's own, to choose what stands in the ranges; at 0
    nothing is searched. A range is (low, high), or empty: the configured value stays.

    `holdback_fraction` of the update's train examples, new and rehearsed alike, judge the trials
    and are not learnt by them; 0.2 is chosen, not measured. `epochs_fraction` is a trial's part of
    the epochs.
    """

    trials: int = 0
    holdback_fraction: float = 0.2
    epochs_fraction: float = 1.0
    strength: tuple[float, ...] = ()
    learning_rate: tuple[float, ...] = ()
    rehearsal_fraction: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        at_least("trials", self.trials, 0)
        fraction("holdback_fraction", self.holdback_fraction, low_open=True, high_open=True)
        fraction("epochs_fraction", self.epochs_fraction, low_open=True)
        _range("strength", self.strength, low_open=True)
        _range("learning_rate", self.learning_rate, low_open=True)
        _range("rehearsal_fraction", self.rehearsal_fraction, low_open=False)
        if self.rehearsal_fraction:
            fraction("rehearsal_fraction", self.rehearsal_fraction[1])
        if self.trials and not self.ranges:
            raise ValueError(
                "trials, strength, learning_rate, rehearsal_fraction: a search needs at least one"
                " of the ranges"
            )

    @property
    def ranges(self) -> dict[str, tuple[float, ...]]:
        """Name -> (low, high) of what is searched; nothing at 0 trials."""
        names = ("strength", "learning_rate", "rehearsal_fraction") if self.trials else ()
        return {name: getattr(self, name) for name in names if getattr(self, name)}
