"""That no arm of a study searches at its updates, as the service does by `[training.search]`.

Called by `updater.study.file`, and for what a sweep may name by `updater.study.arms`.
"""

from updater.errors import InputError
from updater.settings import Settings
from updater.study.tables import Table

RULE = "no arm searches at each update; a sweep chooses once, on the validation stream"


def check(top: Table, quick: Table, settings: Settings) -> None:
    """No arm searches. Asked before settings are resolved, whose own rules for a search would blame
    what stands beside it.

    Args:
        quick: what is in effect of `[quick]`.
        settings: the workspace's.

    Raises:
        InputError: one does; it is about the place that asks for it, seldom the arm's own table.
    """
    for name in top.table("arms").values:
        places = (top.table("arms").table(name), quick.table("settings"), top.table("settings"))
        searches = [place.table("training").table("search") for place in places]
        nearest = next((one for one in searches if "trials" in one.values), None)
        sweep = f"name the values to try in [arms.{name}.sweep]"
        if nearest is None:
            _check_workspace(settings.training.search.trials, sweep)
        elif trials := nearest.value("trials", 0):
            raise nearest.wrong(f"trials = {trials}", RULE, f"take it out, and {sweep}")


def _check_workspace(trials: int, sweep: str) -> None:
    if trials:
        raise InputError(
            f"the workspace's [training.search]: trials = {trials}",
            RULE,
            f"write training.search.trials = 0 in the study file's [settings], and {sweep}",
        )
