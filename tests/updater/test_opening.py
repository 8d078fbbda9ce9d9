"""Opening an update on a real workspace: which periods may be learnt, and which may not yet."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store.datasets import Datasets
from store.ledger import DatasetVersion, ModelVersion, migrate, open_ledger
from updater import opening, versions
from updater.cli import run
from updater.errors import InputError
from updater.nemotron import checkpoint
from updater.steps.ingest import version_period
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "w"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{label}"
date = "{date}"
[periods]
every = "month"
time_zone = "Europe/Berlin"
holdout_fraction = 0.3
"""
FUTURE = "2999-03"
LONGEST = 512
ROLES = ("user", "assistant")
ENDS = "period 2999-03 has not closed yet (it ends 2999-04-01 00:00 Europe/Berlin)"


def later() -> datetime:
    """A clock that runs a thousand years ahead."""
    return datetime.now(UTC) + timedelta(days=365_250)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "updater.toml").write_text(CONFIG)
    rows = [
        {"text": f"{month} {n}", "label": "l", "date": f"{month}-{1 + n % 28:02d}"}
        for month in ("2025-12", "2026-01", FUTURE)
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Datasets.create(tmp_path)
    made = Workspace.open(tmp_path)
    migrate(made.ledger_url)
    return made


@pytest.mark.parametrize(
    "words",
    [
        ("update", FUTURE),
        ("step", "ingest", "--period", FUTURE),
        ("scratch", "--periods", "2026-01", FUTURE),
    ],
    ids=" ".join,
)
def test_a_period_that_has_not_closed_is_refused_before_anything_is_versioned(
    workspace: Workspace, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--workspace", str(workspace.root), "--quiet", *words]) == 2
    assert ENDS in (said := capfd.readouterr().err)
    assert f"updater ingest {FUTURE}" in said
    assert workspace.ledger.dataset_versions() == []


def test_a_checkpoint_is_not_adopted_for_a_period_that_has_not_closed(
    workspace: Workspace,
) -> None:
    with pytest.raises(InputError, match="has not closed yet"):
        opening.open_first(workspace, "adopt", ["2026-01", FUTURE], {"deploy": True})
    assert workspace.ledger.dataset_versions() == []


def test_an_update_that_is_known_is_returned_whatever_the_clock_says(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"deploy": False}
    workspace.registry.create()
    with monkeypatch.context() as ahead:
        ahead.setattr(workspace, "ledger", open_ledger(workspace.ledger_url, clock=later))
        opened = opening.open_first(workspace, "scratch", [FUTURE], arguments)
    assert opening.open_first(workspace, "scratch", [FUTURE], arguments).id == opened.id


def record_deployed(
    workspace: Workspace, digest: str, learnt: DatasetVersion | None = None
) -> None:
    """Version 1 is adopted and deployed, and has learnt what is given."""
    workspace.ledger.record_model_version(
        ModelVersion(
            id="1",
            kind="adopt",
            base=None,
            update=None,
            digest=digest,
            uri="",
            periods=[learnt.period] if learnt else [],
            dataset_versions={learnt.period: learnt.id} if learnt else {},
            run_id="r",
            created_at=datetime.now(UTC),
        )
    )
    workspace.ledger.append_release(
        "promoted", "1", expected_deployed=None, actor="a", reason="the first"
    )


def test_a_tick_before_the_ledgers_clock_is_tried_again_and_a_persons_period_is_not(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scheduler's clock is ahead: exit code 1, after which Airflow tries again."""
    step = ["--workspace", str(workspace.root), "step", "ingest"]
    assert run([*step, "--partition", "2999-04-01T00:00:05"]) == 1
    said = capsys.readouterr().err
    assert "period 2999-03 ends 2999-04-01 00:00 Europe/Berlin; by the scheduler's clock" in said
    assert f"the ledger's it is {datetime.now(UTC):%Y-%m-%d}" in said
    for named in (["--partition", FUTURE], ["--period", FUTURE]):
        assert run([*step, *named]) == 2
        assert ENDS in capsys.readouterr().err
    assert workspace.ledger.updates() == []


@pytest.fixture
def adopted(workspace: Workspace) -> Workspace:
    """An adopted version has learnt 2025-12 and is deployed; of its training nothing is known."""
    learnt = version_period(workspace, "2025-12")
    made = workspace.root / "made"
    made.mkdir()
    fields = {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M",
        "max_position_embeddings": LONGEST,
    }
    (made / "config.json").write_text(json.dumps(fields))
    record_deployed(workspace, workspace.checkpoints.add(made), learnt)
    workspace.registry.create()
    return workspace


def test_the_first_tick_passes_over_no_period_unless_a_person_says_so(
    adopted: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """The adopted version knows December: what closed since then is learnt first, or left out by a
    person. After that first update nothing is asked."""
    step = ["--workspace", str(adopted.root), "--quiet", "step", "ingest"]
    tick = [*step, "--partition", "2026-03-01T03:00:00"]
    assert run(tick) == 2
    said = capfd.readouterr().err
    assert "first update would be that of 2026-02, and 2026-01 before it closed" in said
    assert "`updater update 2026-01`" in said
    assert [version.period for version in adopted.ledger.dataset_versions()] == ["2025-12"]
    assert run([*step, "--partition", "2026-02-01T03:00:00"]) == 0  # the oldest that is due
    assert run([*step, "--partition", "2026-04-01T03:00:00"]) == 2
    assert "first update" not in capfd.readouterr().err  # it has no rows, which is another matter


def test_who_names_a_period_may_begin_with_it(adopted: Workspace) -> None:
    rows = (adopted.root / "rows.jsonl").read_text("utf-8")
    (adopted.root / "rows.jsonl").write_text(rows.replace("2026-01", "2026-02"))
    step = ["--workspace", str(adopted.root), "--quiet", "step", "ingest"]
    assert run([*step, "--period", "2026-02"]) == 0
    assert run([*step, "--partition", "2026-03-01T03:00:00"]) == 0  # the same, which is known
    assert [update.period for update in adopted.ledger.updates()] == ["2026-02"]


@pytest.mark.parametrize("words", [("update",), ("step", "ingest", "--period")], ids=" ".join)
def test_an_update_of_texts_that_the_base_is_not_made_for_is_refused_before_anything_is_begun(
    adopted: Workspace, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert refused(adopted, *words, "2026-01", capfd=capfd)
    assert [version.period for version in adopted.ledger.dataset_versions()] == ["2025-12"]
    assert adopted.ledger.updates() == []


@pytest.mark.parametrize("has_template", [True, False])
def test_that_conversations_can_be_shown_is_looked_up_without_fetching_the_weights(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, has_template: bool
) -> None:
    """On a worker without a GPU, whose disk has no room for them."""
    row = {"date": "2026-01-05", "messages": [{"role": r, "content": "c"} for r in ROLES]}
    (workspace.root / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for _ in range(9)))
    told = CONFIG.replace('prompt = "{text}"\ncompletion = "{label}"', 'messages = "{messages}"')
    (workspace.root / "updater.toml").write_text(told)
    monkeypatch.setenv("UPDATER_STORE_CHECKPOINTS", f"memory://opening-{has_template}")
    workspace = Workspace.open(workspace.root)
    made = workspace.root / "made"
    made.mkdir()
    fields = {"model_type": "nemotron_h", "hybrid_override_pattern": "M"}
    (made / "config.json").write_text(json.dumps(fields | {"max_position_embeddings": 8}))
    (made / "model.safetensors").write_bytes(bytes(1000))
    if has_template:
        (made / "chat_template.jinja").write_text("{{ messages }}")
    record_deployed(workspace, workspace.checkpoints.add(made))
    workspace.registry.create()
    what = "max_position_embeddings = 8 tokens" if has_template else "memory://.*: no chat template"
    with pytest.raises(InputError, match=what):
        opening.open_update(workspace, "2026-01")
    fetched = (workspace.root / "cache" / "checkpoints").rglob("*.safetensors")
    assert list(fetched) == []


def refused(workspace: Workspace, *words: str, capfd: pytest.CaptureFixture[str]) -> bool:
    """One token more than the model is made for is too many."""
    longer = ["--set", f"model.max_length_tokens={LONGEST + 1}"]
    assert run(["--workspace", str(workspace.root), "--quiet", *longer, *words]) == 2
    said = capfd.readouterr().err
    assert f"model.max_length_tokens = {LONGEST + 1}. " in said
    return f"max_position_embeddings = {LONGEST} tokens" in said and "set it to 512" in said


def test_a_first_version_of_texts_that_it_is_not_made_for_is_refused(
    workspace: Workspace, tmp_path: Path, tiny_json: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.json").write_text(tiny_json)
    chosen = ("--set", "model.architecture=tiny.json")
    assert refused(workspace, *chosen, "scratch", "--periods", "2025-12", capfd=capfd)
    folder = checkpoint.create(
        str(tmp_path / "tiny.json"), ["one bird"], tmp_path / "x", vocabulary_size=300, seed=0
    )
    assert refused(workspace, "adopt", str(folder), "--periods", "2025-12", capfd=capfd)
    assert workspace.ledger.dataset_versions() == []


@pytest.mark.parametrize("words", [("update",), ("step", "ingest", "--period")], ids=" ".join)
@pytest.mark.parametrize(
    ("settings", "recording"),
    [
        (("method=si",), "SI's path integral with regularizer.damping = 0.1"),
        (("method=online_ewc", "estimator=optimizer"), "what Adam has accumulated"),
    ],
    ids=("si", "optimizer"),
)
def test_an_update_that_no_training_recorded_for_is_refused_before_anything_is_begun(
    adopted: Workspace,
    words: tuple[str, ...],
    settings: tuple[str, ...],
    recording: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    chosen = [word for one in settings for word in ("--set", f"regularizer.{one}")]
    command = ["--workspace", str(adopted.root), "--quiet", *chosen, *words, "2026-01"]
    assert run(command) == 2
    said = capfd.readouterr().err
    assert "version 1 has no importance for regularizer.method" in said
    assert f"its training has not recorded {recording}. " in said
    assert "run one update with regularizer.strength = 0" in said
    assert [version.period for version in adopted.ledger.dataset_versions()] == ["2025-12"]
    assert adopted.ledger.updates() == []


def test_an_update_that_is_not_held_is_opened_without_a_record(adopted: Workspace) -> None:
    """As the refusal advises: it records for the next one."""
    chosen = ["--set", "regularizer.method=si", "--set", "regularizer.strength=0"]
    where = ["--workspace", str(adopted.root), "--quiet"]
    assert run([*where, *chosen, "step", "ingest", "--period", "2026-01"]) == 0
    assert [update.period for update in adopted.ledger.updates()] == ["2026-01"]


def test_the_rows_so_far_are_versioned_with_a_warning(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "updater")
    assert version_period(workspace, FUTURE).id == f"{FUTURE}@v1"
    assert f"{ENDS}: only its rows so far are read" in caplog.text
    caplog.clear()
    version_period(workspace, "2026-01")
    assert "not closed" not in caplog.text


@pytest.fixture
def opened(adopted: Workspace, monkeypatch: pytest.MonkeyPatch) -> str:
    """An update of 2026-01 that updater 0.9.3 has opened."""
    monkeypatch.setattr(versions, "HERE", "0.9.3")
    command = ["--workspace", str(adopted.root), "--quiet", "--set", "regularizer.method=none"]
    assert run([*command, "step", "ingest", "--period", "2026-01"]) == 0
    (update,) = adopted.ledger.updates()
    assert update.config["updater_version"] == "0.9.3"
    return update.id


def rehearse(workspace: Workspace, update: str, *more: str) -> int:
    chosen = ["--set", "regularizer.method=none"]
    where = ["--workspace", str(workspace.root), "--json", *chosen]
    return run([*where, "step", "rehearse", "--update", update, *more])


def test_a_worker_of_another_series_refuses_before_it_does_anything(
    adopted: Workspace,
    opened: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(versions, "HERE", "0.10.0")
    assert rehearse(adopted, opened) == 2
    said = capfd.readouterr().err
    assert f"update {opened} was opened by updater 0.9.3, and this is 0.10.0" in said
    assert "--mix-versions" in said
    assert adopted.ledger.step(opened, "rehearse") is None
    assert rehearse(adopted, opened, "--mix-versions") == 0
    assert told(adopted, opened) == "0.10.0"
    assert "was opened by updater 0.9.3; rehearse runs by 0.10.0" in capfd.readouterr().err


def test_a_worker_of_another_patch_goes_on_and_says_so(
    adopted: Workspace,
    opened: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(versions, "HERE", "0.9.4")
    assert rehearse(adopted, opened) == 0
    assert "was opened by updater 0.9.3; rehearse runs by 0.9.4" in capfd.readouterr().err
    assert told(adopted, opened) == "0.9.4"


def test_of_one_version_nothing_is_said(
    adopted: Workspace, opened: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(adopted, opened) == 0
    assert "opened by" not in capfd.readouterr().err
    assert told(adopted, opened) is None


def told(workspace: Workspace, update: str) -> str | None:
    """Which version the ledger says has run the step, where it was another than the update's."""
    step = workspace.ledger.step(update, "rehearse")
    assert step is not None
    version = step.result.get("updater_version")
    assert version is None or isinstance(version, str)
    return version
