"""A study in parts, as the DAG model_study runs it: arms at the same time, each in a process, one
report at the end; and who may not work at the same time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study_runs import of_tickets

from updater.errors import UpdateError
from updater.study import file, locks
from updater.study.plan import Study
from updater.workspace import Workspace

UPDATER = str(Path(sys.executable).with_name("updater"))
SETTINGS = """
[training]
epochs = 1
batch_size = 8
[scratch]
epochs = 1
"""
STUDY = """
[study]
name = "s"
seeds = [0]
processes = 1
[stream]
first = ["2026-01"]
then = ["2026-02"]
[arms.first]
rehearsal.policy = "none"
regularizer.method = "none"
[arms.rehearsal]
regularizer.method = "none"
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_json: str) -> Path:
    of_tickets(tmp_path / "w", tiny_json, SETTINGS, ["2026-01", "2026-02"])
    (tmp_path / "s.toml").write_text(STUDY, "utf-8")
    return tmp_path


@pytest.fixture
def study(folder: Path) -> Study:
    return file.read(folder / "s.toml", Workspace.open(folder / "w").settings)


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [UPDATER, "--json", "--quiet", "study", str(folder / "s.toml"), *more]
    return subprocess.Popen(
        [*command, "--workspace", str(folder / "w")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: "subprocess.Popen[str]") -> dict[str, Any]:
    output, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return dict(json.loads(output.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_arms_at_the_same_time_are_one_study(folder: Path) -> None:
    listed = done(start(folder, "--list"))
    assert listed == {"study": "s", "arms": ["first", "rehearsal"], "seeds": [0]}
    assert not (folder / "w" / "studies").exists()
    assert done(start(folder, "--first")) == {"failed": []}
    place = folder / "w" / "studies" / "s"
    (model,) = (place / "first").glob("*/stage.json")
    made = model.stat().st_mtime_ns
    assert not (place / "runs").exists()

    for process in [start(folder, "--only", arm) for arm in listed["arms"]]:
        assert done(process)["failed"] == []
    assert model.stat().st_mtime_ns == made
    runs = {path.name: path.stat().st_mtime_ns for path in (place / "runs").glob("*.json")}
    assert len(runs) == 2
    assert not (place / "report").exists()

    answer = done(start(folder))
    assert set(answer["arms"]) == {"first", "rehearsal"}
    assert (place / "report" / "study.html").is_file()
    assert {path.name: path.stat().st_mtime_ns for path in (place / "runs").glob("*.json")} == runs


@pytest.mark.parametrize(
    ("held", "asked"),
    [([], []), ([], ["first"]), (["first"], []), (["first"], ["rehearsal", "first"])],
)
def test_nobody_else_works_at_what_is_worked_at(
    folder: Path, study: Study, held: list[str], asked: list[str]
) -> None:
    one, other = (Workspace.open(folder / "w") for _ in range(2))
    with locks.at_work(one, study, held):
        with (
            pytest.raises(UpdateError, match="another updater command is at work"),
            locks.at_work(other, study, asked),
        ):
            pass
        with locks.preparing(other, study):  # an arm called first is not what arms share
            pass
    with locks.at_work(other, study, asked):
        pass


def test_different_arms_may_be_worked_at(folder: Path, study: Study) -> None:
    one, other = (Workspace.open(folder / "w") for _ in range(2))
    with locks.at_work(one, study, ["first"]), locks.at_work(other, study, ["rehearsal"]):
        pass


def test_parts_are_asked_for_one_by_one(folder: Path) -> None:
    _, errors = (process := start(folder, "--list", "--first")).communicate(timeout=60)
    assert process.returncode == 2
    assert "give one of them" in errors
