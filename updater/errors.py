"""The two ways in which a command can fail, and nothing else.

A rejected candidate is a result, not an error. `updater.cli` is the one place that turns these
into a line on stderr and an exit code.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave can't be obeyed: nothing was changed. Exit code 2.

    Args:
        what: the field, file or argument at fault, and the value found in it.
        rule: what would have been right.
        cure: what to type or change.
    """

    def __init__(self, what: str, rule: str = "", cure: str = "") -> None:
        self.what, self.rule, self.cure = what, rule, cure
        super().__init__(". ".join(part.rstrip(".") for part in (what, rule, cure) if part) + ".")


class UpdateError(RuntimeError):
    """The work could not be finished; what was finished is kept. Exit code 1, run it again."""


def closest(name: str, names: Iterable[str]) -> str:
    """Which of the names was probably meant, for a cure; empty where none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")
