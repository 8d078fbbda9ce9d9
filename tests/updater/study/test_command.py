"""`updater study` as a user runs it: killed and run again, an arm that diverges, bad input."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from rich.console import Console
from study_runs import of_tickets

from updater import config
from updater.cli import main  # noqa: F401, loads the commands
from updater.cli.app import app
from updater.cli.study import _show
from updater.study import file
from updater.study.conduct import Conducted
from updater.study.results import Run

Make = Callable[..., list[Run]]

COMMAND = [str(Path(sys.executable).with_name("updater")), "--json", "--quiet", "study"]
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
then = ["2026-02..2026-04"]
[validation]
first = ["2026-01"]
then = ["2026-02"]
seeds = [5]
[arms.both]
regularizer.num_examples = 16
sweep = { "regularizer.strength" = [1e2, 1e4] }
[arms.wild]
rehearsal.policy = "none"
training = { learning_rate = 1e4, gradient_clip = 0, epochs = 5 }
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_json: str) -> Path:
    months = [f"2026-0{n}" for n in range(1, 5)]
    of_tickets(tmp_path / "w", tiny_json, SETTINGS, months)
    (tmp_path / "s.toml").write_text(STUDY, "utf-8")
    return tmp_path


def records(folder: Path) -> dict[str, Any]:
    """Name -> stages' scores and steps, of the arm `both`."""
    found = (folder / "w" / "studies" / "s" / "runs").glob("both-*.json")
    runs = {path.name: json.loads(path.read_text("utf-8")) for path in found}
    return {
        name: [(stage["scores"], stage["steps"]) for stage in run["stages"]]
        for name, run in runs.items()
    }


def start(folder: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, str(folder / "s.toml"), "--workspace", str(folder / "w")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def longest(folder: Path) -> int:
    return max(map(len, records(folder).values()), default=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_it_goes_on_from_the_last_stage_to_the_same_end(folder: Path) -> None:
    killed = start(folder)
    deadline = time.monotonic() + 500
    while longest(folder) < 3:  # the reported run has four stages, those of the sweep two
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert psutil.wait_procs(workers, timeout=20)[1] == [], "workers outlive the study"
    before = records(folder)

    again = start(folder)
    answer, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors
    arms = json.loads(answer.splitlines()[-1])["arms"]
    assert all(len(values) == 1 for values in arms["both"].values())
    assert arms["wild"]["final_average_accuracy"] == [None]
    after = records(folder)
    assert before.keys() <= after.keys()
    for name, stages in before.items():
        assert after[name][: len(stages)] == stages
    assert list((folder / "w" / "studies" / "s" / "runs").glob("*/state-*")) == []
    assert (folder / "w" / "studies" / "s" / "report" / "study.html").is_file()

    # What was parted by the kill, in one piece.
    (parted,) = (name for name, stages in after.items() if len(stages) == 4)
    (folder / "w" / "studies" / "s" / "runs" / parted).unlink()
    whole = start(folder)
    assert whole.wait(timeout=500) == 0, whole.communicate()
    whole.communicate()
    assert records(folder) == after


def test_a_study_that_runs_already_is_not_run_twice(folder: Path) -> None:
    from updater.workspace import Workspace

    (folder / "w" / "studies" / "s").mkdir(parents=True)
    with Workspace.open(folder / "w").lock("studies/s/.lock"):
        second = start(folder)
        _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"process {os.getpid()}" in errors


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("seeds = [0]", "seeds = []", "seeds is missing"), ("[arms.wild]", "[arm.wild]", "[arms")],
)
def test_bad_input_is_exit_code_2_before_any_work(
    folder: Path, old: str, new: str, said: str
) -> None:
    (folder / "s.toml").write_text(STUDY.replace(old, new), "utf-8")
    bad = start(folder)
    _, errors = bad.communicate(timeout=120)
    assert bad.returncode == 2
    assert said in errors or "did you mean arms" in errors
    assert not (folder / "w" / "studies").exists()


def test_the_table_has_every_arm_and_says_why_one_stopped(folder: Path, make_arm: Make) -> None:
    (whole,), (begun,) = make_arm("both", 0.9, seeds=1), make_arm("wild", 0.5, seeds=1)
    broken = dataclasses.replace(begun, failure="2026-02: what [/no] markup is\nand more")
    said = shown(folder, whole, broken)
    both, wild = (line.split() for line in said.splitlines()[1:3])
    assert both[1] == "1"
    assert both[-2:] == ["400", f"{sum(stage.seconds for stage in whole.stages):,.0f}"]
    assert wild == ["wild", "0", "of", "1", "–", "–", "–", "–", "–"]
    assert "wild, seed 0, stopped: 2026-02: what [/no] markup is\n" in said
    assert "accepted" not in said


def test_an_arm_that_trained_at_the_last_update_alone_has_dashes_and_the_reason(
    folder: Path, make_arm: Make, make_late: Make
) -> None:
    said = shown(folder, *make_arm("both", 0.9, seeds=1), *make_late("wild", 1)).splitlines()
    assert said[2].split()[4:6] == ["–", "–"]
    assert said[3].startswith("Trained at the last update alone: wild. What came before")
    assert "the last update" not in shown(folder, *make_arm("both", 0.9, seeds=1))


REPLAY = STUDY + "[replay]\n"


def test_what_the_gate_said_of_each_arm_stands_below_the_table(
    folder: Path, make_replay: Make
) -> None:
    """Its verdicts over all seeds, and which update users have at the end."""
    (folder / "s.toml").write_text(REPLAY, "utf-8")
    first, second = (
        dataclasses.replace(run, arm="both") for run in make_replay() if run.arm == "ewc"
    )
    wild = dataclasses.replace(rejected(first, 1), arm="wild")
    said = shown(folder, first, second, wild).splitlines()
    verdicts = "both: 2 accepted, 2 for review, 4 rejected."
    assert said[3] == f"{verdicts} Deployed at the end: the update of travel."
    assert said[4] == "wild: 0 accepted, 0 for review, 4 rejected. No update was deployed."
    assert said[5].startswith("No update was deployed: wild. Users had the first model all along")
    apart = shown(folder, rejected(first, 2), second).splitlines()[3]
    assert apart.endswith(
        "at the end: the update of dining (seed 0); the update of travel (seed 1)."
    )
    none = shown(folder, rejected(first, 1), second).splitlines()[3]
    assert none.endswith("at the end: the first model (seed 0); the update of travel (seed 1).")


def test_that_the_gate_was_not_followed_is_said(folder: Path, make_replay: Make) -> None:
    (folder / "s.toml").write_text(REPLAY + "follow_gate = false\n", "utf-8")
    (one, _) = (dataclasses.replace(run, arm="both") for run in make_replay() if run.arm == "ewc")
    assert "The gate was not followed: every update was deployed" in shown(folder, one)


def rejected(run: Run, start: int) -> Run:
    """The run with every update from this one on rejected."""
    stages = [
        dataclasses.replace(stage, verdict="rejected", deployed=False) if n >= start else stage
        for n, stage in enumerate(run.stages)
    ]
    return dataclasses.replace(run, stages=tuple(stages))


def shown(folder: Path, *runs: Run) -> str:
    """What stands at the console after a study of these runs."""
    study = file.read(folder / "s.toml", config.load_file(folder / "w" / "updater.toml", (), {}))
    console = Console(file=io.StringIO(), width=120)
    _show(console, Conducted(study, runs, (), folder, keys=(), is_part=False))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_help_has_an_example() -> None:
    assert "docs/studies/clinc.toml" in CliRunner().invoke(app, ["study", "--help"]).output
