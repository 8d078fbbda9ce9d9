"""Which of Avalanche's strategies can be asked for, and what each needs of the settings.

Known without importing Avalanche or torch, so that a study's file is checked before any work.
`updater.study.peers.strategies` builds what is named here.
"""

import importlib.util

from updater.errors import InputError
from updater.settings import MOST, Settings

ALONE = ("naive", "cumulative", "der", "der++")
JOINED = ("replay", "ewc", "online_ewc", "si", "mas", "lwf", "gem", "agem")
WITH_MEMORY = ("replay", "gem", "agem", "der", "der++")
WITH_STRENGTH = ("ewc", "online_ewc", "si", "mas", "lwf", "der", "der++")
FIXED_WIDTH = ("gem", "der", "der++")
"""Those that join batches to one another, so that all examples are padded to the longest of the
stream; the others pad to the longest of the batch."""


def parts(strategy: str) -> tuple[str, ...]:
    """The names that a strategy is made of.

    Raises:
        InputError: a name that is not known, or one that stands alone beside others.
    """
    if strategy in ALONE:
        return (strategy,)
    names = tuple(strategy.split("+"))
    if not set(names) <= set(JOINED) or len(set(names)) < len(names):
        raise InputError(
            f'strategy = "{strategy}"',
            f"must be one of {', '.join(ALONE)}, or of {', '.join(JOINED)} each once, joined by +",
            'write strategy = "replay", for one',
        )
    return names


def remembers(strategy: str) -> bool:
    """Whether it keeps examples of the past."""
    return not {"cumulative", *WITH_MEMORY}.isdisjoint(parts(strategy))


def check(strategy: str, settings: Settings) -> None:
    """The strategy can run with these settings.

    Raises:
        InputError: it can't, or Avalanche is not installed.
    """
    chosen = set(parts(strategy))
    if importlib.util.find_spec("avalanche") is None:
        raise InputError(
            f'strategy = "{strategy}"', "Avalanche must be installed", "pip install '.[study]'"
        )
    ours = {"accumulate": 1, "precision": "32-true", "adapt": "full", "max_steps": 0}
    for name, only in ours.items():
        given = getattr(settings.training, name)
        if given != only:
            raise InputError(
                f"training.{name} = {given!r} with strategy = {strategy!r}",
                f"Avalanche's loop knows only {only!r}",
                "set it so in the arm",
            )
    if not settings.rehearsal.examples(MOST) and chosen & set(WITH_MEMORY):
        raise InputError(
            f'strategy = "{strategy}" without rehearsal',
            "its memory holds as many examples as rehearsal's budget",
            'set rehearsal.policy = "balanced", and a fraction or budget above 0',
        )
    if settings.regularizer.strength is None and chosen & set(WITH_STRENGTH):
        raise InputError(
            f'strategy = "{strategy}" without regularizer.strength',
            "it goes to Avalanche in Avalanche's own units, so there is no default",
            "sweep it by decades",
        )
