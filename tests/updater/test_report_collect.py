"""From a real ledger and real files to the report's data."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rehearsal.manifest import plan
from rehearsal.policies import Past
from store.errors import NotFoundError
from store.ledger import DatasetVersion, ModelVersion, Score, Update, migrate
from updater.gate import Paired, Rule, decide
from updater.report.collect import collect
from updater.report.data import Cell, Importance
from updater.report.page import render
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    WorkspaceSettings,
)
from updater.workspace import Workspace

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
PERIODS = ("jan", "feb", "mar")
HOLDOUT = pa.table(
    {
        "key": pa.array(range(4), pa.uint64()),
        "id": ["a", "b", "c", "d"],
        "prompt": [f"what is {x}?" for x in "abcd"],
        "completion": [f" {x}" for x in "abcd"],
    }
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Version 1 learnt jan and feb; version 2, from it, mar; both were deployed, 2 rolled back."""
    settings = Settings(
        workspace=WorkspaceSettings(name="tickets"),
        source=SourceSettings(
            uri="x.jsonl", fields=FieldTemplates(prompt="{p}", completion="{c}", period="{m}")
        ),
        periods=PeriodSettings(order=PERIODS),
    )
    workspace = Workspace(tmp_path, settings)
    migrate(workspace.ledger_url)
    ledger = workspace.ledger
    for ordinal, period in enumerate(PERIODS):
        ledger.record_period(period, ordinal, None, None)
        for number in (1, 2) if period == "jan" else (1,):
            ledger.record_dataset_version(dataset(period, number))
    first = {"feb": "feb@v1", "jan": "jan@v1"}
    version(workspace, "1", None, first)
    version(workspace, "2", "1", {**first, "mar": "mar@v1"})
    answers(workspace, "1", {"jan@v1": "1110", "feb@v1": "1100", "mar@v1": "0000"})
    answers(workspace, "2", {"jan@v1": "1011", "feb@v1": "1100", "mar@v1": "1111"})
    release(workspace, "promoted", "1", None)
    release(workspace, "promoted", "2", "1")
    ledger.append("verified", "2", actor="cron", reason="same answers", update="u2")
    release(workspace, "rolled_back", "1", "2")
    return workspace


def dataset(period: str, number: int) -> DatasetVersion:
    return DatasetVersion(
        id=f"{period}@v{number}",
        period=period,
        commit="c0ffee",
        digest="d",
        num_train=90,
        num_holdout=4,
        num_quarantined=3,
        num_duplicates=2,
        num_leaked=1,
        schema={},
        created_at=AT,
    )


def version(workspace: Workspace, id: str, base: str | None, learnt: dict[str, str]) -> None:
    ledger = workspace.ledger
    kind = "scratch" if base is None else "update"
    *_, period = learnt
    ledger.open_update(
        Update(
            id=f"u{id}",
            kind=kind,
            period=period,
            base=base,
            dataset_version=learnt[period],
            config={"training": {"epochs": 6}},
            config_digest="d1",
            candidate=None,
            created_at=AT,
        )
    )
    ledger.record_model_version(
        ModelVersion(
            id=id,
            kind=kind,
            base=base,
            update=f"u{id}",
            digest=f"sha-{id}",
            uri="",
            run_id="r",
            periods=list(learnt),
            dataset_versions=learnt,
            created_at=AT,
        )
    )
    ledger.set_candidate(f"u{id}", id)


def answers(workspace: Workspace, id: str, given: dict[str, str]) -> None:
    """Outcomes on disk and scores in the ledger; "1" is a right answer to a, b, c, d in turn."""
    for dataset_version, right in given.items():
        path = workspace.root / "outcomes" / f"{id}-{dataset_version}.parquet"
        path.parent.mkdir(exist_ok=True)
        said = [f" {x}" if r == "1" else None for x, r in zip("abcd", right, strict=True)]
        columns = {"id": list("abcd"), "correct": [r == "1" for r in right]}
        columns["loss"] = [0.5] * 4
        columns["predicted"] = pa.array(said, pa.string())
        pq.write_table(pa.table(columns), path)
        period, _, _ = dataset_version.partition("@")
        workspace.ledger.record_scores(
            [
                Score(
                    version=id,
                    period=period,
                    dataset_version=dataset_version,
                    num_correct=right.count("1"),
                    num_examples=4,
                    outcomes=str(path.relative_to(workspace.root)),
                    created_at=AT,
                )
            ]
        )


def release(workspace: Workspace, kind: str, id: str, expected: str | None) -> None:
    workspace.ledger.append_release(
        kind, id, expected_deployed=expected, actor="ana", reason="because"
    )


def judge(workspace: Workspace) -> None:
    """The verdict on update u2, its steps, manifest and training curve."""
    ledger = workspace.ledger
    rule = Rule(0.3, 0.9)
    pairs = [
        Paired("jan", "past", "base", "1", 4, 2, 1, 1, 0),
        Paired("feb", "past", "base", "1", 4, 2, 0, 0, 2),
        Paired("mar", "new", "base", "1", 4, 0, 0, 4, 0),
    ]
    verdict = decide(pairs, rule, past=["jan", "feb"], new="mar", base="1").as_dict()
    ledger.record_verdict(
        "u2",
        verdict["verdict"],
        reasons=verdict["reasons"],
        comparisons=verdict["comparisons"],
        rule={"margin_fraction": rule.margin_fraction, "confidence": rule.confidence},
    )
    past = [
        Past(
            period=p,
            dataset_version=f"{p}@v1",
            num_train=90,
            ordinal=i,
            accuracy=None,
            best_accuracy=None,
        )
        for i, p in enumerate(PERIODS[:2])
    ]
    manifest = plan(past, policy="balanced", budget=10)
    held = {"estimator": "empirical", "num_examples": 9, "format": "factored", "digest": "d"}
    held |= {"num_bytes": 40, "weights_bytes": 2000}
    results = {"rehearse": {"manifest": manifest.to_json()}, "importance": held, "train": {}}
    for name, result in results.items():
        ledger.start_step("u2", name)
        ledger.finish_step("u2", name, result, 1.5)
    ledger.start_step("u2", "evaluate")
    folder = workspace.root / "runs" / "u2"
    folder.mkdir(parents=True)
    lines = [
        {"step": 1, "train/loss": 3.0, "train/penalty": 0.0},  # of a release that kept no times
        {"step": 2, "at_ms": 1700000000000, "train/loss": 9.0},
        {"step": 2, "at_ms": 1700000000000, "train/loss": 2.0, "train/penalty": 0.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "train/l'
    (folder / "train_metrics.jsonl").write_text(text)


def holdout(_: str) -> pa.Table:
    return HOLDOUT


def test_everything_there_is_comes_together(workspace):
    judge(workspace)
    data = collect(workspace, "2", holdout=holdout)
    assert (data.workspace, data.version, data.periods) == ("tickets", "2", PERIODS)
    first, second = data.versions
    assert (first.learnt, first.new, first.verdict) == (("jan", "feb"), ("jan", "feb"), None)
    assert (second.learnt, second.new, second.base) == (PERIODS, ("mar",), "1")
    assert first.was_deployed
    assert second.was_deployed
    assert [(d.kind, d.version, d.actor) for d in data.deployments] == [
        ("promoted", "1", "ana"),
        ("promoted", "2", "ana"),
        ("rolled_back", "1", "ana"),
    ]
    assert data.deployed == "1"
    assert data.scores["2", "mar"] == Cell(4, 4)
    assert data.scores["1", "mar"] == Cell(0, 4)
    assert data.judgement is not None
    assert data.judgement.verdict == second.verdict
    assert (data.judgement.margin_fraction, data.judgement.confidence) == (0.3, 0.9)
    assert data.rehearsed is not None
    assert (data.rehearsed.policy, data.rehearsed.num_examples) == ("balanced", 10)
    assert data.curve == {
        "train/loss": ((1, 3.0), (2, 2.0)),
        "train/penalty": ((1, 0.0), (2, 0.5)),
    }
    assert data.importance == Importance("empirical", 9, "factored", 40, 2000)
    assert data.step_seconds == (("rehearse", 1.5), ("importance", 1.5), ("train", 1.5))
    assert [d.id for d in data.datasets] == ["jan@v1", "feb@v1", "mar@v1"]
    assert data.config == {"training": {"epochs": 6}}
    assert "what is b?" in render(data)


def test_flips_are_those_of_the_outcomes_files(workspace):
    data = collect(workspace, "2", holdout=holdout)
    assert data.flips is not None
    jan, feb, mar = data.flips
    assert (jan.period, jan.num_negative, jan.num_positive, jan.num_examples) == ("jan", 1, 1, 4)
    (lost,) = jan.negative
    assert (lost.id, lost.prompt, lost.expected) == ("b", "what is b?", " b")
    assert (lost.reference_predicted, lost.candidate_predicted) == (" b", "")
    assert (feb.num_negative, feb.num_positive) == (0, 0)
    assert (mar.num_negative, mar.num_positive) == (0, 4)
    assert data.flips_unknown == ()


def test_the_holdout_is_asked_for_only_where_something_flipped(workspace):
    asked = []

    def counting(dataset_version: str) -> pa.Table:
        asked.append(dataset_version)
        return HOLDOUT

    collect(workspace, "2", holdout=counting)
    assert asked == ["jan@v1", "mar@v1"]


def test_a_column_holds_scores_on_the_data_that_the_version_has_learnt(workspace):
    answers(workspace, "1", {"jan@v2": "0000"})
    answers(workspace, "2", {"jan@v2": "0001"})
    data = collect(workspace, "2", holdout=holdout)
    assert data.scores["1", "jan"] == Cell(3, 4)
    assert data.scores["2", "jan"] == Cell(3, 4)


def test_new_data_of_an_old_period_is_what_an_update_taught(workspace):
    learnt = {"jan": "jan@v2", "feb": "feb@v1"}
    version(workspace, "3", "1", learnt)
    assert collect(workspace, "3", holdout=holdout).subject.new == ("jan",)


@pytest.mark.parametrize("broken", [None, b"", b"PAR1", "cut"])
def test_outcomes_that_are_missing_or_broken_are_said_to_be(workspace, broken):
    path = workspace.root / "outcomes" / "1-feb@v1.parquet"
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if broken == "cut" else broken)
    data = collect(workspace, "2", holdout=holdout)
    assert data.flips is not None
    assert [f.period for f in data.flips] == ["jan", "mar"]
    assert data.flips_unknown == ("feb",)


def test_a_first_model_without_runs_or_verdict_is_reported(workspace):
    data = collect(workspace, "1", holdout=holdout)
    assert data.flips is None
    assert data.judgement is None
    assert data.rehearsed is None
    assert data.importance is None
    assert data.curve == {}
    assert "Not judged yet" in render(data)


def test_an_unknown_version_is_refused(workspace):
    with pytest.raises(NotFoundError, match="9"):
        collect(workspace, "9")


def test_an_outcomes_file_of_other_examples_is_refused(workspace):
    path = workspace.root / "outcomes" / "1-jan@v1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "id", pa.array(list("abcx"))), path)
    with pytest.raises(ValueError, match="outcomes of jan: both versions must answer the same"):
        collect(workspace, "2", holdout=holdout)


@pytest.mark.parametrize(
    ("kept", "told"),
    [("si", "SI's path integral"), ("path", "SI's path integral"), ("mas", "mas")],
)
def test_how_importance_was_found_is_told_as_users_know_it(workspace, kept, told):
    """Older ledgers have "path"."""
    result = {"estimator": kept, "num_examples": 9, "format": "float32"}
    workspace.ledger.start_step("u1", "importance")
    workspace.ledger.finish_step(
        "u1", "importance", {**result, "num_bytes": 40, "weights_bytes": 40}, 1.0
    )
    data = collect(workspace, "1", holdout=holdout)
    assert data.importance is not None
    assert data.importance.estimator == told
