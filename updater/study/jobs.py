"""Which jobs a study comes to: of each arm and seed, on the reported stream and on the other.

Called by `updater.study.conduct`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from updater.study import arms
from updater.study.job import First, Job
from updater.study.plan import Arm, Study
from updater.study.stream import Stream
from updater.study.sweep import Choice


@dataclass(frozen=True)
class Jobs:
    """Of the study whose results lie in `folder`. `stream` is reported, sweeps are decided on
    `validation`, which is there where an arm sweeps."""

    study: Study
    folder: Path
    stream: Stream
    validation: Stream | None

    def reported(self, arm: Arm, choice: Choice | None = None) -> list[Job]:
        """The arm with every seed, on the reported stream. `choice`: what its sweep chose."""
        given = choice or {}
        return [
            dataclasses.replace(
                self._job(self.stream, arms.swept(arm, dict(given)), seed, given),
                replay=self.study.replay,
            )
            for seed in self.study.seeds
        ]

    def possible(self, arm: Arm) -> list[Job]:
        """As `reported`, with each choice that the arm's sweep may come to."""
        choices = arms.values(arm) or [{}]
        return [job for choice in choices for job in self.reported(arm, choice)]

    def tries(self, arm: Arm) -> list[tuple[Choice, list[Job]]]:
        """Every choice of the arm's sweep, with its jobs on the validation stream."""
        if not arm.sweep:
            return []
        assert self.study.validation is not None, "the file's reader asks for it"
        assert self.validation is not None, "it is split where an arm sweeps"
        return [
            (
                choice,
                [
                    self._job(self.validation, arms.swept(arm, choice), seed, choice)
                    for seed in self.study.validation.seeds
                ],
            )
            for choice in arms.values(arm)
        ]

    def _job(self, data: Stream, arm: Arm, seed: int, choice: Choice) -> Job:
        from updater.train.memory import trace_of

        first = First(
            settings=self.study.settings,
            seed=seed,
            stream=data,
            folder=self.folder,
            threads=self.study.threads,
            trace=trace_of(arm.settings.regularizer),
        )
        return Job(arm, first, choice, processes=self.study.processes)
