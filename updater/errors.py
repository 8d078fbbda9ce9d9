"""The two ways in which a command can fail, and the cure that both the files' readers and the
commands have for a name that does not exist.

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


class CrashError(UpdateError):
    """The machine is to blame, not what was asked: a process was killed, memory ran out."""


def closest(name: str, names: Iterable[str]) -> str:
    """Which of the names was probably meant; empty where none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A cure that names the closest of the names; empty where none is near."""
    near = closest(name, names)
    return f"did you mean {near}" if near else ""
