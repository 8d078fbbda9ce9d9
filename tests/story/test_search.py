"""Tuning per update: what is tried, on what, what is made of it, and that it survives kills."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from rehearsal import window
from store.datasets import Datasets
from store.ledger import Update
from updater import pipeline, release
from updater.errors import InputError, UpdateError
from updater.nemotron import checkpoint
from updater.opening import open_update
from updater.report.collect import collect
from updater.report.page import render
from updater.standing import deployed
from updater.steps import search
from updater.steps.holdback import Tables, hold_back, lesson_of
from updater.steps.rehearse import manifest_of, rehearsed
from updater.steps.train import _new_examples
from updater.workspace import Workspace

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).with_name("search_driver.py")
SEARCH = """
[training.search]
trials = 3
epochs_fraction = 0.5
strength = [1e-2, 1e2]
learning_rate = [1e-3, 1e-2]
rehearsal_fraction = [0.1, 0.8]
"""
FIRST = (
    "import sys; from pathlib import Path; from updater import pipeline\n"
    "from updater.initialise import init_workspace\n"
    "workspace = init_workspace(Path(sys.argv[1]))\n"
    "pipeline.scratch(workspace, ['north', 'east'], deploy=True)"
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace with a deployed version of two periods, and a search configured. Not to be
    opened, only copied: made by a process of its own, so that its databases are closed."""
    folder = lay_out(tmp_path_factory.mktemp("search") / "ws")
    subprocess.run([sys.executable, "-c", FIRST, str(folder)], check=True, capture_output=True)
    with (folder / "updater.toml").open("a") as file:
        file.write(SEARCH)
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "ws", symlinks=True))


def opened(folder: Path, *overrides: str) -> tuple[Workspace, Update]:
    """The workspace and its update of south, with all before training done."""
    workspace = Workspace.open(folder, overrides)
    update = open_update(workspace, "south")
    pipeline.run_step(workspace, "rehearse", update.id)
    return workspace, update


def train_result(workspace: Workspace, update: Update) -> dict[str, Any]:
    step = workspace.ledger.step(update.id, "train")
    assert step is not None
    return step.result


def untaught(workspace: Workspace, update: Update) -> Callable[..., search.Student]:
    """Learns nothing: a trial in no time."""
    assert update.base is not None
    base = workspace.checkpoints.local(workspace.ledger.model_version(update.base).digest)
    return lambda *_: search.Student(*checkpoint.load(base))


def test_the_update_is_trained_as_the_winner_and_the_next_one_starts_from_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, update = opened(folder)
    pipeline.run_step(workspace, "importance", update.id)
    path = Datasets.path

    def guarded(self: Datasets, version: str, name: str) -> Path:
        assert name != "holdout.parquet", "the holdout judges the candidate, not the trials"
        return path(self, version, name)

    with monkeypatch.context() as guard:
        guard.setattr(Datasets, "path", guarded)
        pipeline.run_step(workspace, "train", update.id)
    pipeline.update(workspace, "south")

    result = train_result(workspace, update)
    tried, won = result["search"]["trials"], result["search"]["winner"]
    assert len(tried) == 3
    assert tried[0]["values"] == {
        "strength": 1.0,
        "learning_rate": 5e-3,
        "rehearsal_fraction": 0.5,
    }
    assert won["score"] == max(t["score"] for t in tried)
    fraction = won["values"]["rehearsal_fraction"]
    num_past = sum(workspace.ledger.dataset_version(f"{p}@v1").num_train for p in ("north", "east"))
    assert result["num_rehearsed"] == round(fraction * num_past)
    manifest = rehearsed(workspace.ledger, update.id)
    assert manifest is not None
    assert manifest.num_examples == result["num_rehearsed"]
    assert (workspace.run_folder(update.id) / "manifest.json").read_text() == manifest.to_json()
    assert not (workspace.run_folder(update.id) / "training").exists()

    version = workspace.ledger.model_version(result["version"])
    client = mlflow.MlflowClient(workspace.mlflow_uri)
    run = client.get_run(version.run_id)
    assert float(run.data.params["training/learning_rate"]) == won["values"]["learning_rate"]
    assert float(run.data.params["regularizer/strength"]) == won["values"]["strength"]
    assert float(run.data.params["rehearsal/fraction"]) == fraction
    assert {"search.json", "experts.json"} <= {
        file.path for file in client.list_artifacts(version.run_id)
    }
    experts = json.loads(
        Path(client.download_artifacts(version.run_id, "experts.json")).read_text()
    )
    assert list(experts["tokens"]) == ["backbone.layers.1", "backbone.layers.3"]
    assert {sum(tokens) for tokens in experts["tokens"].values()} == {2 * result["num_tokens"]}
    page = render(collect(workspace, version.id))
    assert "What was tried" in page
    assert f"{won['values']['learning_rate']:g}" in page

    if deployed(workspace.ledger) != version.id:  # the gate's answer is not asked here
        release.promote(
            workspace.ledger, workspace.aliases, version.id, actor="me", reason="a try", force=True
        )
    pipeline.update(workspace, "west")
    west = next(u for u in workspace.ledger.updates(period="west"))
    record = train_result(workspace, west)["search"]
    assert record["earlier"] == [{"update": update.id, "trials": tried}]
    assert record["trials"][0]["values"] == tried[0]["values"]
    assert [one["update"] for one in search.earlier_trials(workspace)] == [update.id, west.id]
    scaled = {"scale": "mean", "strength": 1.0}  # its own default is outside of the range
    for other in ({"terms": "periods"}, scaled, {"estimator": "sampled"}):
        held = dataclasses.replace(workspace.settings.regularizer, **other)
        changed = workspace.tuned(dataclasses.replace(workspace.settings, regularizer=held))
        assert search.earlier_trials(changed) == []
    alone = dataclasses.replace(workspace.settings.rehearsal, policy="none")
    fewer = dataclasses.replace(workspace.settings.training.search, rehearsal_fraction=())
    training = dataclasses.replace(workspace.settings.training, search=fewer)
    changed = dataclasses.replace(workspace.settings, rehearsal=alone, training=training)
    assert search.earlier_trials(workspace.tuned(changed)) == []
    assert west.base == version.id
    planned = workspace.ledger.step(west.id, "rehearse")
    assert planned is not None
    starts = {c["period"]: c["start"] for c in json.loads(planned.result["manifest"])["choices"]}
    assert {c.period: c.count for c in manifest.choices}.items() <= starts.items()


def test_what_judges_is_not_learnt_and_keeps_the_ratio(folder: Path) -> None:
    workspace, update = opened(folder)
    new = _new_examples(workspace, update)
    held = hold_back(workspace, update, new)
    assert held.past is not None
    judging = {*held.new["id"].to_pylist(), *held.past["id"].to_pylist()}
    assert len(judging) == held.new.num_rows + held.past.num_rows
    assert held.new.num_rows == round(0.2 * new.num_rows)
    for fraction in (0.1, 0.45, 0.8):
        trying = workspace.tuned(workspace.settings.tuned({"rehearsal_fraction": fraction}))
        lesson = lesson_of(trying, update, held)
        assert lesson.rehearsed is not None
        learnt = {*lesson.new["id"].to_pylist(), *lesson.rehearsed["id"].to_pylist()}
        assert not learnt & judging
        whole = manifest_of(trying, update)
        table = window.load(whole, lambda v: workspace.datasets.path(v, "train.parquet"))
        assert set(lesson.rehearsed["id"].to_pylist()) <= set(table["id"].to_pylist())
        ratio = lesson.rehearsed.num_rows / lesson.new.num_rows
        assert ratio == pytest.approx(whole.num_examples / new.num_rows, rel=0.1)


def test_where_nothing_is_rehearsed_the_past_judges_all_the_same(folder: Path) -> None:
    off = ("rehearsal.policy=none", "training.search.rehearsal_fraction=[]")
    workspace, update = opened(folder, *off)
    held = hold_back(workspace, update, _new_examples(workspace, update))
    assert held.past is not None
    assert held.past.num_rows == held.new.num_rows
    assert lesson_of(workspace, update, held) == Tables(held.kept, None)


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(folder: Path) -> None:
    workspace, update = opened(folder)
    learns, calls = untaught(workspace, update), []

    def teach(*arguments: Any) -> search.Student:
        calls.append(arguments)
        if len(calls) == 2:
            raise UpdateError("the loss is not a number")
        return learns()

    new = _new_examples(workspace, update)
    best, found = search.tuned(workspace, update, new, teach)
    tried = found["search"]["trials"]
    assert [t["score"] is None for t in tried] == [False, True, False]
    assert tried[1]["error"] == "the loss is not a number"
    assert found["search"]["winner"] == tried[0]  # of equal scores the first
    assert best.settings.searched() == workspace.settings.searched()
    assert search.tuned(workspace, update, new, teach)[1] == found
    assert len(calls) == 3


def test_where_all_diverge_it_is_trained_as_configured(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace, update = opened(folder)

    def teach(*_: Any) -> search.Student:
        raise UpdateError("the loss is not a number")

    best, found = search.tuned(workspace, update, _new_examples(workspace, update), teach)
    assert found["search"]["winner"] is None
    assert best.settings == workspace.settings
    assert "trained as configured" in caplog.text
    planned = json.loads(found["manifest"])
    assert planned["budget"] == manifest_of(workspace, update).budget


def test_a_single_new_example_can_judge_nothing(folder: Path) -> None:
    workspace, update = opened(folder)
    one = _new_examples(workspace, update).slice(0, 1)
    _, found = search.tuned(workspace, update, one, untaught(workspace, update))
    assert (found["search"]["trials"], found["search"]["winner"]) == ([], None)


def test_without_optuna_nothing_is_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    workspace = Workspace.open(folder)
    with pytest.raises(InputError, match=r"optuna>=5"):
        open_update(workspace, "south")
    assert workspace.ledger.updates(period="south") == []


def test_killed_everywhere_the_search_ends_as_if_it_had_not_been(folder: Path) -> None:
    undisturbed = folder.with_name("undisturbed")
    shutil.copytree(folder, undisturbed, symlinks=True)
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), "south"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *killed, last = json.loads(done.stdout.strip().splitlines()[-1])
    assert ([code for code in killed if code != -9], last) == ([], 0), (killed, done.stderr[-3000:])
    pipeline.update(Workspace.open(undisturbed), "south")
    results = []
    for one in (folder, undisturbed):
        workspace = Workspace.open(one)
        result = train_result(workspace, workspace.ledger.updates(period="south")[-1])
        for timed in (result, result["search"]):
            timed.pop("compute_seconds")
        results.append(result)
    assert results[0] == results[1]
