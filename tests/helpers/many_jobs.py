"""What a worker of many workspaces does: a workspace with a deployed model, and an update of it.

Runs in the processes of a pool, which import it by its name.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.ledger import (
    DatasetVersion,
    Event,
    ModelVersion,
    Period,
    Score,
    Step,
    Update,
    VerdictRecord,
)
from updater.cli import run
from updater.workspace import Workspace

# What lies in a workspace's folder and is of its own stores.
STORES = ("store.db", "mlflow.db", "mlartifacts", "checkpoints", "cache")


@dataclasses.dataclass(frozen=True)
class First:
    """A workspace that has deployed its first model: its folder, and what its ledger says."""

    folder: Path
    weights: Path
    periods: list[Period]
    datasets: list[DatasetVersion]
    update: Update
    steps: list[Step]
    version: ModelVersion
    scores: list[Score]
    verdict: VerdictRecord
    events: list[Event]

    @classmethod
    def of(cls, folder: Path) -> "First":
        workspace = Workspace.open(folder)
        ledger = workspace.ledger
        (update,), (version,), (verdict,) = (
            ledger.updates(),
            ledger.model_versions(),
            ledger.verdicts(),
        )
        return cls(
            folder=folder,
            weights=workspace.checkpoints.local(version.digest),
            periods=ledger.periods(),
            datasets=ledger.dataset_versions(),
            update=update,
            steps=ledger.steps(),
            version=version,
            scores=ledger.scores(),
            verdict=verdict,
            events=ledger.events(),
        )


def learn(first: First, folder: Path, seed: int, environ: dict[str, str], period: str) -> dict:
    """What the update of a copy of `first` in `folder`, with stores of its own as the environment
    says, came to."""
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        shutil.copytree(first.folder, folder, ignore=_stores_of(first.folder))
        config = folder / "updater.toml"
        text = config.read_text().replace('name = "story"', f'name = "{folder.name}"')
        config.write_text(text.replace("[training]\n", f"[training]\nseed = {seed}\n"))
        _said(folder, "init", str(folder))
        workspace = Workspace.open(folder)
        _continue(first, workspace)
        answer = _said(folder, "update", period)
        return {"answer": answer, **outcome(workspace, answer["update"])}
    finally:
        for name in environ:
            os.environ.pop(name)
        os.environ.update(before)


def _stores_of(folder: Path) -> Callable[[str, list[str]], set[str]]:
    def ignored(within: str, names: list[str]) -> set[str]:
        mine = Path(within) == folder
        return {name for name in names if mine and name.startswith(STORES)}

    return ignored


def _continue(first: First, workspace: Workspace) -> None:
    """The workspace's own stores know the first model, as its own: nothing is trained."""
    from updater import release
    from updater.steps.registration import register

    ledger = workspace.ledger
    for period in first.periods:
        ledger.record_period(period.id, period.ordinal, period.start_at, period.end_at)
    for dataset in first.datasets:
        ledger.record_dataset_version(dataset)
    if workspace.dvc_remote:
        workspace.datasets.push([dataset.id for dataset in first.datasets])
    ledger.open_update(dataclasses.replace(first.update, candidate=None))
    digest = workspace.checkpoints.add(first.weights)
    version = register(workspace, first.update, digest)
    assert version == first.version.id
    workspace.registry.close_run(ledger.model_version(version).run_id)
    result = {"train": {"experiment": workspace.registry.experiment}}
    for step in first.steps:
        ledger.start_step(step.update, step.name)
        told = step.result | result.get(step.name, {})
        ledger.finish_step(step.update, step.name, told, step.seconds or 0.0)
    ledger.record_scores(first.scores)
    of_gate = {f: getattr(first.verdict, f) for f in ("reasons", "comparisons", "rule")}
    ledger.record_verdict(first.update.id, first.verdict.verdict, **of_gate)
    who = {"actor": "test", "reason": "copied"}
    for event in first.events:
        if event.kind != "promoted":
            told = {"update": event.update, "payload": event.payload}
            ledger.append(event.kind, event.version, **who, **told)
    release.promote(ledger, workspace.aliases, version, update=first.update.id, **who)


def outcome(workspace: Workspace, update: str) -> dict[str, Any]:
    """All of the update that is the same wherever and beside whatever it runs."""
    ledger = workspace.ledger
    candidate = ledger.model_version(str(ledger.update(update).candidate))
    return {
        "digest": candidate.digest,
        "scores": sorted(
            (s.version, s.dataset_version, s.num_correct, s.num_examples) for s in ledger.scores()
        ),
        "events": [
            (e.id, e.kind, e.version, e.previous, e.update == update) for e in ledger.events()
        ],
        "runs": sorted(v.run_id for v in ledger.model_versions()),
    }


def _said(folder: Path, *arguments: str) -> dict[str, Any]:
    """The JSON answer of one command.

    Raises:
        RuntimeError: it failed; with what it wrote to stderr.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--workspace", str(folder), "--json", "--quiet", *arguments])
    if code:
        raise RuntimeError(f"{folder.name}: {arguments[0]} ended with {code}: {err.getvalue()}")
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1]) if out.getvalue() else {}
    return found
