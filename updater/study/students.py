"""How each kind of arm takes an update: one class a kind, in one table.

What the service does around its core (steps, stores, the gate) is not here. Called by
`updater.study.run`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from updater.nemotron import checkpoint
from updater.stopwatch import Stopwatch
from updater.study.fine_tuned import Cost, FineTuned
from updater.study.first import Model, from_scratch
from updater.study.job import Job
from updater.study.results import Stage, learnt


class Student(Protocol):
    """The model of one arm, as it walks over the stream. It begins as the first model."""

    model: Model

    def learn(self, period: str, before: Sequence[Stage]) -> Cost | None:
        """It has learnt the period, at this cost; None where it is the very model it was.

        `before`: all stages so far. Raises: UpdateError: it diverged.
        """
        ...

    def save(self, folder: Path) -> None:
        """What it needs to go on is in the folder."""
        ...

    def restore(self, folder: Path) -> None:
        """It goes on from what `save` wrote."""
        ...


class Frozen:
    """Learns nothing: what the first model is worth as time goes on."""

    def __init__(self, job: Job) -> None:
        self._first = job.first
        self.model = Model(*checkpoint.load(job.first.place / "checkpoint"))

    def learn(self, period: str, before: Sequence[Stage]) -> None:
        """Nothing happens."""

    def save(self, folder: Path) -> None:
        """The first model is on disk already."""

    def restore(self, folder: Path) -> None:
        """It is the first model."""


class Scratch:
    """A new model from random weights on everything so far, at each update or only at the last;
    in between it is what it was."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.model = Model(*checkpoint.load(job.first.place / "checkpoint"))

    def learn(self, period: str, before: Sequence[Stage]) -> Cost | None:
        """A new model is trained, if this is an update at which one is."""
        job, stream = self._job, self._job.stream
        if job.arm.every == "last" and period != stream.span.then[-1]:
            return None
        periods = (*learnt(stream.span.first, before), period)
        with Stopwatch() as watch:
            self.model, done = from_scratch(job.settings, stream, periods, job.place)
        return Cost.of(done, watch.seconds)

    def save(self, folder: Path) -> None:
        """The next one begins at random weights: nothing is kept."""

    def restore(self, folder: Path) -> None:
        """The next one begins at random weights."""


def _peer(job: Job) -> Student:
    """Avalanche is imported by the arms that run it, and by no others."""
    from updater.study.peers.student import PeerStudent

    return PeerStudent(job)


STUDENTS: Mapping[str, Callable[[Job], Student]] = {
    "update": FineTuned,
    "average": FineTuned,
    "frozen": Frozen,
    "scratch": Scratch,
    "avalanche": _peer,
}
