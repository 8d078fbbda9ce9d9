"""Made-up histories of a model, as the report sees them: from a first version to hundreds."""

import dataclasses
import random

from updater.gate import Paired, Rule, decide
from updater.metrics import Flip
from updater.report.data import (
    Cell,
    Dataset,
    Deployment,
    Importance,
    Judgement,
    PeriodFlips,
    Rehearsed,
    ReportData,
    Searched,
    Version,
    Window,
)
from updater.trials import Trial


def history(
    num_versions: int, *, first: int = 2, rejected: tuple[int, ...] = (), seed: int = 1
) -> ReportData:
    """A workspace whose version 1 learnt `first` periods and each later one a further period.

    Versions in `rejected` (1-based) forgot, were refused, and the next started at their base.
    """
    rng = random.Random(seed)
    periods = tuple(
        f"20{24 + i // 12}-{i % 12 + 1:02d}"
        for i in range(first + num_versions - 1 - len(set(rejected) - {num_versions}))
    )
    versions, deployments = [], []
    scores: dict[tuple[str, str], Cell] = {}
    base, learnt, n = None, first, 750
    for v in range(1, num_versions + 1):
        if v > 1 and (v - 1) not in rejected:
            learnt += 1
        bad = v in rejected
        row = periods[:learnt]
        versions.append(
            Version(
                id=str(v),
                kind="scratch" if base is None else "update",
                base=base,
                learnt=row,
                new=row if base is None else row[-1:],
                verdict="rejected" if bad else "accepted",
                was_deployed=not bad,
                created_at=f"2026-{(v - 1) % 12 + 1:02d}-03T09:12:44+00:00",
                update=f"{row[-1]}-{v:08x}",
                digest=f"{v:02x}" * 32,
                run_id=f"{v:032x}",
            )
        )
        for j, period in enumerate(periods):
            if j > learnt:
                continue
            if j >= len(row):
                share = 0.04 + 0.05 * rng.random()
            elif bad and j < len(row) - 1:
                share = 0.05 + 0.1 * rng.random()
            else:
                share = 0.93 - 0.012 * min(40, len(row) - j) + 0.02 * rng.random() - (j % 3) * 0.03
            scores[str(v), period] = Cell(round(n * max(0.0, share)), n)
        if not bad:
            kind = "promoted"
            deployments.append(
                Deployment(versions[-1].created_at, kind, str(v), "gate", "accepted by the gate")
            )
            base = str(v)
    data = ReportData(
        workspace="support tickets",
        version=str(num_versions),
        made_at="2026-11-23T18:00:00+00:00",
        versions=tuple(versions),
        periods=periods,
        scores=scores,
        deployments=tuple(deployments),
        config={"training": {"epochs": 6}, "rehearsal": {"policy": "balanced", "fraction": 0.1}},
        config_digest="ab" * 32,
    )
    return with_update(data, rng)


def with_update(data: ReportData, rng: random.Random) -> ReportData:
    """`data` with all that the last version's update left: verdict, flips, rehearsal, curve."""
    subject = data.subject
    datasets = tuple(Dataset(p, f"{p}-3fa94c21", 1500, 750, 3, 12, 1) for p in subject.learnt)
    if subject.base is None:
        judged = decide([], Rule(), past=[], new=None, base=None)
        steps = (("ingest", 2.4), ("train", 61.0), ("evaluate", 7.7), ("gate", 0.1))
        return dataclasses.replace(
            data,
            judgement=judgement(judged, 0.02),
            datasets=datasets,
            step_seconds=steps,
            curve=curve(rng, penalty=False),
        )
    past = [p for p in subject.learnt if p not in data.subject.new]
    pairs = []
    for period in subject.learnt:
        before, after = data.scores[subject.base, period], data.scores[subject.id, period]
        lost = max(0, before.num_correct - after.num_correct) + 6
        won = after.num_correct - before.num_correct + lost
        both = before.num_correct - lost
        pairs.append(
            Paired(
                period,
                "past" if period in past else "new",
                "base",
                subject.base,
                750,
                both,
                lost,
                won,
                750 - both - lost - won,
            )
        )
    judged = decide(pairs, Rule(0.05), past=past, new=data.subject.new[0], base=subject.base)
    flips = tuple(
        PeriodFlips(
            p.period,
            750,
            p.reference_only,
            p.candidate_only,
            tuple(flip(p.period, k) for k in range(min(8, p.reference_only))),
            tuple(flip(p.period, k) for k in range(min(8, p.candidate_only))),
        )
        for p in pairs
    )
    windows = tuple(
        Window(p, f"{p}-3fa94c21", 1500, 1300 if i % 4 == 0 else 120 * i % 1300, 150 + i)
        for i, p in enumerate(past)
    )
    return dataclasses.replace(
        data,
        judgement=judgement(judged, 0.05),
        flips=flips,
        rehearsed=Rehearsed("balanced", sum(w.count for w in windows), windows),
        importance=Importance("empirical", 1256, "factored", 1_234_567, 123_456_700),
        searched=searched(),
        curve=curve(rng, penalty=True),
        step_seconds=(
            ("ingest", 2.44),
            ("rehearse", 0.03),
            ("importance", 6.1),
            ("train", 96.2),
            ("evaluate", 17.7),
            ("gate", 0.12),
            ("release", 3.9),
        ),
        datasets=datasets,
    )


def searched() -> Searched:
    tried = [
        Trial({"learning_rate": 1e-3, "rehearsal_fraction": 0.1}, 0.81, 0.84, 0.825),
        Trial({"learning_rate": 2.5e-2, "rehearsal_fraction": 0.32}, error="the loss <diverged>"),
        Trial({"learning_rate": 1e-2, "rehearsal_fraction": 0.02}, 0.9, 0.1, -0.22),
    ]
    plain = tuple(trial.as_dict() for trial in tried)
    return Searched(plain, plain[0], num_new=300, num_past=150, base_past=0.84)


def judgement(verdict, margin):
    plain = verdict.as_dict()
    return Judgement(
        plain["verdict"], tuple(plain["reasons"]), tuple(plain["comparisons"]), margin, 0.95
    )


def flip(period: str, k: int) -> Flip:
    return Flip(
        period,
        f"t-{period}-{k:05d}",
        f"My card was charged twice for order {k} and nobody answers.\nIntent:",
        " duplicate_charge",
        " duplicate_charge",
        " card_declined",
    )


def curve(rng: random.Random, *, penalty: bool):
    steps = range(10, 3000, 10)
    points = {"train/loss": tuple((s, 4 / (1 + s / 120) + 0.1 * rng.random()) for s in steps)}
    points["train/learning_rate"] = tuple((s, 1e-3) for s in steps)
    if penalty:
        points["train/loss_new"] = tuple((s, 5 / (1 + s / 90) + 0.1 * rng.random()) for s in steps)
        points["train/loss_rehearsed"] = tuple((s, 0.3 + 0.1 * rng.random()) for s in steps)
        points["train/penalty"] = tuple((s, 0.08 * (1 - 2.7 ** (-s / 500))) for s in steps)
    return points
