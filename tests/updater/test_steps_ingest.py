"""Step ingest on a real workspace: when a period gets a dataset version, and which rows it has."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from store.datasets import Datasets
from store.errors import NotFoundError
from store.ledger import DatasetVersion, migrate
from updater.steps.ingest import version_period
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "w"
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text}"
completion = "{label}"
period = "{period}"
split = "{split}"
[periods]
order = ["a", "b", "c"]
holdout_splits = ["test"]
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "updater.toml").write_text(CONFIG)
    Datasets.create(tmp_path)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    return made


def row(period_: str, n: int, **changes: Any) -> dict[str, Any]:
    split = "test" if n % 5 == 0 else "train"
    plain = {"id": f"{period_}{n}", "text": f"{period_} {n}", "label": "l", "period": period_}
    return {**plain, "split": split, **changes}


def add(workspace: Workspace, rows: list[dict[str, Any] | str]) -> None:
    with (workspace.root / "rows.jsonl").open("a") as file:
        file.writelines(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows)


def prompts(workspace: Workspace, version: DatasetVersion, name: str) -> set[str]:
    path = workspace.datasets.path(version.id, f"{name}.parquet")
    return set(pq.read_table(path)["prompt"].to_pylist())


def test_a_growing_file_leaves_its_old_periods_as_they_are(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "updater")
    add(workspace, [*[row("a", n) for n in range(20)], "{cut off", row("a", 99, text=None)])
    first = version_period(workspace, "a")
    assert (first.id, first.num_quarantined) == ("a@v1", 2)
    others = [row(period, n) for period in ("b", "c", "garden") for n in range(20)]
    add(workspace, [*others, "{not json", row("a", 98, period=None)])
    assert version_period(workspace, "a") == first
    assert "a@v1 is unchanged: 84 rows read, 60 of other periods" in caplog.text
    assert "20 rows are of periods that are not in periods.order: garden" in caplog.text
    where = workspace.root / "cache" / "unplaced" / "a@v1.parquet"
    assert f"3 broken rows may be of any period; they stand in {where}" in caplog.text
    assert pq.read_table(where)["line"].to_pylist() == [21, 83, 84]
    assert version_period(workspace, "b").num_quarantined == 3
    where = workspace.root / "data" / "b" / "quarantine.parquet"
    assert f"3 broken rows may be of any period; they stand in {where}" in caplog.text
    assert pq.read_table(where)["line"].to_pylist() == [21, 83, 84]
    add(workspace, [row("a", 20)])
    assert version_period(workspace, "a").id == "a@v2"


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_nothing_held_out_in_one_period_is_trained_on_in_another(
    workspace: Workspace, order: str
) -> None:
    """Prompts that two periods share, each on each side, in whichever order they are ingested."""
    for period in "abc":
        add(workspace, [row(period, n) for n in range(20)])
        for other in "abc".replace(period, ""):
            shared = [row(other, n) for n in (0, 1, 2)]
            rows = zip(shared, ("train", "test", "train"), strict=True)
            add(
                workspace,
                [
                    {**s, "id": f"{period}-{s['id']}", "period": period, "split": split}
                    for s, split in rows
                ],
            )
    first = {period: version_period(workspace, period) for period in order}
    check_apart(workspace, first)
    assert all(version.num_train >= 15 for version in first.values())
    assert all(version.num_leaked > 0 for version in list(first.values())[1:])
    assert {period: version_period(workspace, period) for period in "abc"} == first
    late = [row(p, 50 + n, id=f"late{n}", period="a") for n, p in enumerate("bc")]
    held = [row(p, 5, id=f"late-{p}5", period="a", split="train") for p in "bc"]
    trained = [row(p, 3, id=f"late-{p}3", period="a", split="test") for p in "bc"]
    add(workspace, [*late, *held, *trained])
    assert version_period(workspace, "b") == first["b"]
    second = version_period(workspace, "a")
    assert (second.id, second.num_leaked - first["a"].num_leaked >= 4) == ("a@v2", True)
    check_apart(workspace, {**first, "a": second})


def check_apart(workspace: Workspace, versions: dict[str, DatasetVersion]) -> None:
    trained, held = (
        set.union(*(prompts(workspace, version, name) for version in versions.values()))
        for name in ("train", "holdout")
    )
    assert not trained & held


def test_a_version_of_which_a_file_is_lost_is_made_anew(workspace: Workspace) -> None:
    add(workspace, [row("a", n) for n in range(20)])
    first = version_period(workspace, "a")
    path = workspace.datasets.path("a@v1", "train.parquet")
    path.chmod(0o600)
    path.unlink()
    assert version_period(workspace, "a") == first
    assert path.is_file()


def test_all_versions_can_be_made_anew_oldest_first(workspace: Workspace) -> None:
    for period, other in zip("abc", "bca", strict=True):
        add(workspace, [row(period, n) for n in range(20)])
        add(workspace, [row(other, n, id=f"{period}-{n}", period=period) for n in (0, 1)])
        add(workspace, [row(other, 2, id=f"{period}-2", period=period, split="test")])
    first = {period: version_period(workspace, period) for period in "abc"}
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    with pytest.raises(NotFoundError, match="ingest the period again"):
        version_period(workspace, "b")
    assert {period: version_period(workspace, period) for period in "abc"} == first


def test_a_version_that_the_ledger_does_not_know_is_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(workspace, [row("a", n) for n in range(20)])
    with monkeypatch.context() as killed:
        killed.setattr(type(workspace.ledger), "record_period", _killed)
        with pytest.raises(KeyboardInterrupt):
            version_period(workspace, "a")
    assert workspace.ledger.dataset_versions() == []
    assert version_period(workspace, "a").id == "a@v1"


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_progress_counts_every_row_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("updater.progress.LINES", {"mininterval": 0, "delay": 0, "ncols": 0})
    add(workspace, [row("a", n) for n in range(5000)])
    version_period(Workspace(workspace.root, workspace.settings, progress=True), "a")
    lines = [line.partition(" [")[0] for line in capsys.readouterr().err.splitlines()]
    shown = [line for line in lines if line.startswith("ingest a:")]
    assert shown[-1] == "ingest a: 5000 rows"
    assert "ingest a: 4096 rows" in shown
