"""`periods.every` or `periods.order` was changed after periods were versioned: told as that."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from commands import said

from store.ledger import migrate
from updater.workspace import Workspace

START = datetime(2026, 1, 1, tzinfo=UTC)


def configured(folder: Path, when: str, kind: str) -> None:
    (folder / "updater.toml").write_text(
        '[workspace]\nname = "m"\n[source]\nuri = "rows.jsonl"\n[source.fields]\n'
        f'prompt = "{{text}}"\ncompletion = "{{label}}"\n{when}\n[periods]\n{kind}\n'
    )


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """A workspace with four months."""
    configured(tmp_path, 'date = "{date}"', 'every = "month"')
    workspace = Workspace.open(tmp_path)
    migrate(workspace.ledger_url)
    for n in range(1, 5):
        workspace.ledger.record_period(f"2026-{n:02d}", 202600 + n, START, START)
    return tmp_path


def test_another_calendar_is_refused_with_what_was_and_what_is(months: Path) -> None:
    said(months, "due")
    configured(months, 'date = "{date}"', 'every = "week"')
    for words in (["due"], ["ingest", "2026-W05"], ["update", "2026-05"]):
        _, line = said(months, *words, code=2)
        assert line == (
            'updater: the configuration says [periods] every = "week", and the periods versioned '
            "so far are those of every month: 2026-01, 2026-02, 2026-03 and 1 more. the data of a "
            'workspace is cut into periods of one kind for ever. put back every = "month", or make '
            "another workspace with `updater init DIR`.\n"
        )


def test_names_in_the_place_of_a_calendar_are_refused(months: Path) -> None:
    configured(months, 'period = "{region}"', 'order = ["north"]')
    _, line = said(months, "due", code=2)
    assert "order = [..], and the periods versioned so far are those of every month" in line
    configured(months, 'period = "{month}"', 'order = ["2026-01", "2026-02", "2026-03", "2026-04"]')
    said(months, "due")  # the same ones by name


def test_a_calendar_in_the_place_of_names_is_refused(tmp_path: Path) -> None:
    configured(tmp_path, 'period = "{region}"', 'order = ["north"]')
    workspace = Workspace.open(tmp_path)
    migrate(workspace.ledger_url)
    workspace.ledger.record_period("north", 1, None, None)
    configured(tmp_path, 'date = "{date}"', 'every = "month"')
    _, line = said(tmp_path, "due", code=2)
    assert 'every = "month", and the periods versioned so far are named: north. ' in line
    assert 'put back order = ["north"]' in line
