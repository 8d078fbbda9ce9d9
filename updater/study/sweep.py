"""Which of a sweep's values an arm gets: the best on the validation stream. Pure.

Called by `updater.study.conduct`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from updater.study.measures import measures
from updater.study.results import Run

Choice = Mapping[str, Any]


def best(tried: Sequence[tuple[Choice, Sequence[Run]]]) -> Choice | None:
    """The choice with the highest mean final average accuracy over its runs; of equal ones that
    with the smaller values (texts: that which was named first). None where every choice has a run
    that failed: a value at which one seed diverges is none to choose.

    Args:
        tried: in the order in which the values are named.
    """
    scored = [
        (-sum(accuracies) / len(accuracies), _size(choice, place), place)
        for place, (choice, runs) in enumerate(tried)
        if (accuracies := _accuracies(runs))
    ]
    return tried[min(scored)[2]][0] if scored else None


def _accuracies(runs: Sequence[Run]) -> list[float]:
    """One for each run; empty where one has none."""
    found = [measures(run) for run in runs]
    accuracies = [one.final_average_accuracy for one in found if one is not None]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return known if len(known) == len(runs) else []


def _size(choice: Choice, place: int) -> list[float]:
    return [float(v) if isinstance(v, int | float) else float(place) for v in choice.values()]
