"""Runs made up for the tests of what is written of a study."""

import dataclasses
import random
from collections.abc import Callable, Mapping

import pytest

from updater.study.results import Run, Stage

PERIODS = ("banking", "credit_cards", "dining", "home", "travel", "work")
FIRST = PERIODS[:2]


def arm_runs(
    arm: str,
    keeps: float,
    *,
    seeds: int = 5,
    learns: float = 0.9,
    steps: int = 100,
    grows: bool = False,
) -> list[Run]:
    """An arm that keeps `keeps` of what it knew at each update, with noise from the seed."""
    made = []
    for seed in range(seeds):
        noise = random.Random(f"{arm} {seed}")
        common = random.Random(seed).gauss(0, 0.01)
        known = {p: 0.85 + common + noise.gauss(0, 0.008) for p in FIRST}
        stages = [_stage(PERIODS[1], known, 0, 0.0)]
        for i, period in enumerate(PERIODS[len(FIRST) :]):
            known = {p: a * (keeps + noise.gauss(0, 0.01)) for p, a in known.items()}
            known[period] = learns + common + noise.gauss(0, 0.008)
            total = steps * (len(FIRST) + i + 1) if grows else steps
            stages.append(_stage(period, known, total, 0.02 * total + noise.random()))
        made.append(Run(arm, seed, FIRST, tuple(stages), peak_memory_bytes=900 * 2**20))
    return made


def _stage(period: str, known: Mapping[str, float], steps: int, seconds: float) -> Stage:
    scores = {p: (round(450 * min(1.0, known.get(p, 0.02))), 450) for p in PERIODS}
    return Stage(period, scores, steps, 32 * steps, 700 * steps, seconds)


def a_study(seeds: int = 5) -> list[Run]:
    """Seven arms of which one diverged with one seed."""
    runs = [
        *arm_runs("finetune", 0.45, seeds=seeds, steps=90),
        *arm_runs("ewc", 0.7, seeds=seeds, steps=92),
        *arm_runs("rehearsal", 0.975, seeds=seeds, steps=130),
        *arm_runs("rehearsal+ewc", 0.985, seeds=seeds, learns=0.89, steps=132),
        *arm_runs("lwf", 0.82, seeds=seeds, steps=90),
        *arm_runs("scratch", 1.0, seeds=seeds, steps=280, grows=True),
    ]
    broken = arm_runs("si", 0.6, seeds=seeds)
    worst = broken[-1]
    return [
        *runs,
        *broken[:-1],
        Run("si", worst.seed, FIRST, worst.stages[:3], failure="diverged: the loss is not finite"),
    ]


@pytest.fixture
def make_arm() -> Callable[..., list[Run]]:
    return arm_runs


@pytest.fixture
def make_study() -> Callable[..., list[Run]]:
    return a_study


@pytest.fixture
def make_replay() -> Callable[..., list[Run]]:
    """Arms of which the gate rejects every second update."""

    def made(seeds: int = 2) -> list[Run]:
        return [_judged(run) for run in a_study(seeds) if run.arm in ("rehearsal", "ewc")]

    return made


def _judged(run: Run) -> Run:
    verdicts = ("accepted", "rejected", "review", "rejected")
    stages = [
        dataclasses.replace(stage, verdict=verdict, deployed=verdict != "rejected")
        for stage, verdict in zip(run.stages[1:], verdicts, strict=True)
    ]
    return dataclasses.replace(run, stages=(run.stages[0], *stages))
