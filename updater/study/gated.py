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
from updater.study.replay import Deployed, Outcomes
from updater.study.results import Stage

_FILE = "deployed.json"


class Gate(Protocol):
    """It begins with the first model deployed, or where it was saved."""

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """The stage of a candidate with these outcomes, and whether it was deployed."""
        ...

    def save(self, folder: Path) -> None:
        """What it needs to go on is in the folder."""
        ...


class Open:
    """Nothing is judged: every update is deployed."""

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """As it is."""
        return stage

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""


class Judging:
    """The service's gate, from what is deployed on."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed

    def judged(self, stage: Stage, outcomes: Outcomes) -> Stage:
        """With the verdict, its reasons, and whether it was deployed."""
        found, self._deployed = replay.judge(self._deployed, outcomes, period=stage.period)
        return dataclasses.replace(
            stage, verdict=found.verdict, reasons=found.reasons, deployed=found.deployed
        )

    def save(self, folder: Path) -> None:
        """The outcomes of all that was deployed are in the folder."""
        write_text(folder / _FILE, self._deployed.to_json())


def gate_for(job: Job, model: Model, saved: Path | None) -> Gate:
    """As the study's `[replay]` says, with the arm's margin and confidence.

    Args:
        model: the first model, which is asked for its outcomes unless they are in `saved`.
        saved: the folder in which the gate was saved; None: it begins.
    """
    if job.replay is None:
        return Open()
    rule = Rule(job.settings.gate.margin_fraction, job.settings.gate.confidence)
    if saved is not None:
        text = (saved / _FILE).read_text("utf-8")
        return Judging(Deployed.from_json(text, rule=rule, settings=job.replay))
    found = answers(model, job.stream, job.settings)
    first = job.stream.span.first
    return Judging(replay.begin(found, learnt=first, rule=rule, settings=job.replay))
