"""What the gate means for one arm's stream: nothing, or a verdict on each update.

Two kinds in the same places, so that the walk over the stream (`updater.study.run`) has no
branches. The judging is `updater.study.replay`'s.
"""

import dataclasses
from pathlib import Path
from typing import Protocol

from updater.files import write_text
from updater.gate import Rule
from updater.study import replay
from updater.study.first import Model, answers
from updater.study.job import Job
from updater.study.replay import Outcomes
from updater.study.results import Stage

_FILE = "deployed.json"


class Gate(Protocol):
    """It begins with the first model deployed."""

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """The stage of a candidate with these outcomes, and whether it was deployed."""
        ...

    def save(self, folder: Path) -> None:
        """What it needs to go on is in the folder."""
        ...

    def restore(self, folder: Path) -> None:
        """It goes on from what `save` wrote."""
        ...


class Open:
    """Nothing is judged: every update is deployed."""

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """As it is."""
        return stage

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""

    def restore(self, folder: Path) -> None:
        """There is nothing to restore."""


class Judging:
    """The service's gate, with the arm's margin and confidence."""

    def __init__(self, job: Job, settings: replay.ReplaySettings, first: Model) -> None:
        rule = job.settings.gate
        self._deployed = replay.begin(
            answers(first, job.stream, job.settings),
            learnt=job.stream.span.first,
            rule=Rule(rule.margin_fraction, rule.confidence),
            settings=settings,
        )

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """With the verdict, its reasons, and whether it was deployed."""
        found, self._deployed = replay.judge(self._deployed, outcomes, period=stage.period)
        return dataclasses.replace(
            stage, verdict=found.verdict, reasons=found.reasons, deployed=found.deployed
        )

    def save(self, folder: Path) -> None:
        """The outcomes of all that was deployed are in the folder."""
        write_text(folder / _FILE, self._deployed.to_json())

    def restore(self, folder: Path) -> None:
        """As they were."""
        text = (folder / _FILE).read_text("utf-8")
        before = self._deployed
        self._deployed = replay.Deployed.from_json(text, rule=before.rule, settings=before.settings)


def gate_for(job: Job, first: Model) -> Gate:
    """As the study's `[replay]` says. `first`: the first model."""
    return Open() if job.replay is None else Judging(job, job.replay, first)
