"""Where a workspace's stores are: from the file, the environment, and its own name."""

from pathlib import Path

import pytest

from updater.cli import run
from updater.workspace import Workspace


def opened(folder: Path, name: str) -> Workspace:
    folder.mkdir()
    (folder / "updater.toml").write_text(
        f'[workspace]\nname = "{name}"\n[source]\nuri = "a.jsonl"\n'
        '[source.fields]\nprompt = "{a}"\ncompletion = "{b}"\nperiod = "{c}"\n'
        '[periods]\norder = ["one"]\n'
    )
    return Workspace.open(folder)


def test_one_environment_serves_many_workspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = "postgresql+psycopg://u:pass{word}@db/ledger?options=-csearch_path%3D%22{workspace}%22"
    monkeypatch.setenv("UPDATER_STORE_URL", ledger)
    monkeypatch.setenv("UPDATER_STORE_CHECKPOINTS", "s3://checkpoints/{workspace}")
    monkeypatch.setenv("UPDATER_STORE_DVC_REMOTE", "s3://datasets/{workspace}/all")
    monkeypatch.setenv("UPDATER_STORE_MLFLOW_URI", "http://mlflow:5000")
    for name in ("tickets", "calls-2"):
        workspace = opened(tmp_path / name, name)
        assert workspace.ledger_url == ledger.replace("{workspace}", name)
        assert workspace.dvc_remote == f"s3://datasets/{name}/all"
        assert workspace.checkpoints.location == f"s3://checkpoints/{name}"
        assert workspace.mlflow_uri == "http://mlflow:5000"


def test_a_folder_of_the_configurations_name_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "updater.toml").mkdir()
    for words in (["init", str(tmp_path)], ["--workspace", str(tmp_path), "status"]):
        assert run(words) == 2
        line = capfd.readouterr().err
        assert line.startswith(f"updater: {tmp_path / 'updater.toml'} is a folder. ")
        assert "move the folder away, then" in line
