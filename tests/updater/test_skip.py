"""`updater skip`: a period without rows is due no more; who and why stand in the history."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from commands import command, said

from store.datasets import Datasets
from store.ledger import migrate
from updater.ingest import FILES
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "m"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
period = "{region}"
[periods]
order = ["p", "closed", "open", "p-u-1"]
holdout_fraction = 0.3
"""
WHY = ("--reason", "the shop was closed")


@pytest.fixture
def folder(tmp_path: Path, mlflow_tables: object, story_of: Callable) -> Path:
    """Version 1, which has learnt `p`, is deployed; `closed` has no rows."""
    (tmp_path / "updater.toml").write_text(CONFIG)
    rows = [{"text": f"t{n}", "label": "l", "region": "open"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Datasets.create(tmp_path)
    ledger_url = Workspace.open(tmp_path).ledger_url
    migrate(ledger_url)
    ledger = Workspace.open(tmp_path).ledger
    story_of(ledger).candidate("1", None)
    ledger.append_release("promoted", "1", expected_deployed=None, actor="a", reason="r")
    return tmp_path


def test_a_period_without_rows_is_passed_over(folder: Path) -> None:
    assert command(folder, "due")["due"] == ["closed", "open", "p-u-1"]
    _, line = said(folder, "ingest", "closed", code=2)
    assert line.splitlines()[-1].startswith("updater: no row belongs to closed")
    assert "pass it over: `updater skip closed --reason TEXT`" in line
    done = command(folder, "skip", "closed", *WHY)
    assert done == {
        "period": "closed",
        "skipped": True,
        "actor": done["actor"],
        "reason": "the shop was closed",
    }
    assert command(folder, "due")["due"] == ["open", "p-u-1"] == command(folder, "status")["due"]
    assert "skipped closed" in said(folder, "history")[0]


def test_again_it_changes_nothing_and_the_first_reason_stays(folder: Path) -> None:
    first = command(folder, "skip", "closed", *WHY)
    before = command(folder, "history")
    assert command(folder, "skip", "closed", "--reason", "another") == first
    assert command(folder, "history") == before
    assert before["events"][-1]["period"] == "closed"


def test_what_was_passed_over_can_still_be_ingested(folder: Path) -> None:
    command(folder, "skip", "open", *WHY)
    assert command(folder, "ingest", "open")["num_train"] > 0
    assert {path.name for path in (folder / "data" / "open").iterdir()} >= set(FILES)


@pytest.mark.parametrize(
    ("period", "why", "said_so"),
    [
        ("p", "r", "period p is already learnt by the deployed version 1"),
        ("clsed", "r", "did you mean closed"),
        ("closed", " ", "whoever"),
    ],
)
def test_what_is_refused_changes_nothing(folder: Path, period: str, why: str, said_so: str) -> None:
    before = command(folder, "history")
    assert said_so in said(folder, "skip", period, "--reason", why, code=2)[1]
    assert command(folder, "history") == before


def test_a_period_that_has_not_closed_is_not_passed_over(tmp_path: Path) -> None:
    """Its rows may still come."""
    month = f"{datetime.now(UTC):%Y-%m}"
    text = CONFIG.replace('order = ["p", "closed", "open", "p-u-1"]', 'every = "month"')
    (tmp_path / "updater.toml").write_text(text)
    migrate(Workspace.open(tmp_path).ledger_url)
    _, line = said(tmp_path, "skip", month, *WHY, code=2)
    assert f"period {month} has not closed yet" in line
