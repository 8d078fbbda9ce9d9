"""Runs made up for the tests of what is written of a study, and what real runs are made of."""

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_runs import MONTHS, NUM_HOLDOUT, NUM_TRAIN, SPAN, quiet

from updater.config import override
from updater.demo import tickets
from updater.ingest.write import EXAMPLES
from updater.settings import (
    CompressionSettings,
    FieldTemplates,
    ModelSettings,
    PeriodSettings,
    ScratchSettings,
    Settings,
    SourceSettings,
    TrainingSettings,
    WorkspaceSettings,
)
from updater.study.first import prepare
from updater.study.job import First, Job
from updater.study.plan import Arm
from updater.study.results import Compressed, Run, Stage
from updater.study.stream import PeriodData, Stream
from updater.study.tabulated import Table, tabulate
from updater.study.ways import Way
from updater.train.memory import trace_of

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
def make_late() -> Callable[..., list[Run]]:
    """An arm that trains at the last update alone, as `every = "last"` has it."""

    def made(arm: str, seeds: int = 3, *, steps: int = 100) -> list[Run]:
        return [_late(run) for run in arm_runs(arm, 1.0, seeds=seeds, steps=steps, grows=True)]

    return made


def _late(run: Run) -> Run:
    first, *between, last = run.stages
    still = (Stage(stage.period, first.scores) for stage in between)
    return dataclasses.replace(run, stages=(first, *still, last))


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


@pytest.fixture
def make_compressed() -> Callable[..., Table]:
    """A table of a study that compresses and learns nothing after its first model; `more` arms have
    names of their own."""

    def made(seeds: int = 3, more: Mapping[str, Way] = MappingProxyType({})) -> Table:
        ways = [
            *(a_way(m, sparsity=s) for m in ("magnitude", "obd") for s in (0.5, 0.9)),
            *(a_way("obd", sparsity=s, recovery="finetune") for s in (0.5, 0.9)),
            a_way("obd", remove="neurons", sparsity=0.3),
            a_way("reap", remove="experts", sparsity=0.25),
            a_way("obd", remove="layers", sparsity=0.25),
            Way(CompressionSettings(method="obd", remove="neurons", sparsity=0.3), "scratch"),
            a_way("none", quantize="int4"),
        ]
        runs = [_first_alone("uncompressed", seed, 0.0, None) for seed in range(seeds)]
        named = {way.name: way for way in ways} | dict(more)
        for name, way in named.items():
            runs += [_first_alone(name, seed, _loss(way), way) for seed in range(seeds)]
        return tabulate(runs, "uncompressed", ways=named, uncompressed="uncompressed")

    return made


def a_way(method: str, **changes: Any) -> Way:
    return Way(CompressionSettings(method=method, **changes))


def _loss(way: Way) -> float:
    """Of accuracy: more where more goes, half where it is learnt again."""
    given = way.settings
    lost = given.sparsity**4 * (0.5 if given.method == "obd" else 1.0) if way.what else 0.01
    return lost if given.recovery == "none" else lost / 2


def _gone(way: Way, seed: int) -> dict[str, list[int]]:
    """Of one layer always the same expert, of another that of the seed."""
    return {
        "experts": {"backbone.layers.1.mixer": [2], "backbone.layers.3.mixer": [seed]},
        "layers": {"backbone.layers": [seed % 2]},
    }.get(way.settings.remove, {})


def _first_alone(arm: str, seed: int, loss: float, way: Way | None) -> Run:
    """ "home" pays twice what the others do."""
    noise = random.Random(f"{arm} {seed}")
    common = random.Random(seed).gauss(0, 0.01)

    def right(period: str) -> int:
        lost = 2 * loss if period == "home" else loss
        return round(1000 * max(0.0, 0.85 + common + noise.gauss(0, 0.004) - lost))

    stage = Stage(PERIODS[-1], {period: (right(period), 1000) for period in PERIODS})
    size = None
    if way is not None:
        small = 0.8 if way.settings.remove == "neurons" else 1.0
        quarter = 0.5 if way.settings.quantize != "none" else small
        size = Compressed(
            num_parameters=round(1000 * small),
            base_parameters=1000,
            nonzero_fraction=1 - way.settings.sparsity if way.what else 1.0,
            num_bytes=round(2**20 * quarter),
            base_bytes=2**20,
            seconds=2.0,
            gone=_gone(way, seed),
            per_second=None if way.settings.quantize != "none" else 100 / small,
            base_per_second=None if way.settings.quantize != "none" else 100.0,
        )
    return Run(arm, seed, PERIODS, (stage,), compressed=size, first_digest="first")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    data = {}
    for month in MONTHS:
        rows = [
            {"id": t["id"], "prompt": t["text"] + "\nQueue:", "completion": " " + t["category"]}
            for t in tickets.generate([month], NUM_TRAIN + NUM_HOLDOUT, 0)
        ]
        folder = tmp_path_factory.mktemp(month)
        paths = []
        for name, some in (("train", rows[:NUM_TRAIN]), ("holdout", rows[NUM_TRAIN:])):
            step = 2**64 // len(some) + 1
            keyed = [{"key": n * step, "subject": None, **row} for n, row in enumerate(some)]
            paths.append(folder / f"{name}.parquet")
            pq.write_table(pa.Table.from_pylist(keyed, EXAMPLES), paths[-1])
        data[month] = PeriodData(month, f"digest-{month}", *paths, NUM_TRAIN)
    return Stream(SPAN, data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_json: str) -> Settings:
    architecture = tmp_path_factory.mktemp("model") / "config.json"
    architecture.write_text(tiny_json)
    return Settings(
        workspace=WorkspaceSettings(name="w"),
        source=SourceSettings(
            uri="x.jsonl", fields=FieldTemplates(prompt="{p}", completion="c", date="{d}")
        ),
        periods=PeriodSettings(every="month"),
        model=ModelSettings(architecture=str(architecture), vocabulary_size=300),
        training=TrainingSettings(epochs=1, batch_size=8),
        scratch=ScratchSettings(epochs=1),
    )


@pytest.fixture(scope="module")
def job(stream: Stream, folder: Path, settings: Settings) -> Callable[..., Job]:
    def made(name: str, kind: str = "update", more: Any = None, **options: Any) -> Job:
        own = override(settings, more or {"regularizer": {"method": "none"}}, "test")
        trace = trace_of(own.regularizer)
        first = First(settings, 0, stream, folder, 1, trace)
        prepare(first, quiet)
        return Job(Arm(name, kind, own, **options), first)

    return made
