"""The studies of docs/studies: they can be read, and the quick form shows the order of methods."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from updater import config
from updater.demo import tickets
from updater.initialise import init_workspace
from updater.study import file

STUDIES = Path(__file__).parents[3] / "docs" / "studies"
NAMES = sorted(path.stem for path in STUDIES.glob("*.toml") if "." not in path.stem)
CLINC = os.environ.get("UPDATER_TEST_CLINC", "")
ARMS = ("finetune", "ewc", "rehearsal", "rehearsal+ewc", "scratch")


def quick(workspace: Path, name: str, source: str) -> dict[str, Any]:
    """The arms of the quick form's answer."""
    init_workspace(workspace, STUDIES / f"{name}.workspace.toml")
    command = [str(Path(sys.executable).with_name("updater")), "--json", "--quiet", "study"]
    options = ["--quick", "--workspace", str(workspace), "--set", f"source.uri={source}"]
    done = subprocess.run(
        [*command, str(STUDIES / f"{name}.toml"), *options], stdout=subprocess.PIPE, check=True
    )
    arms = json.loads(done.stdout.splitlines()[-1])["arms"]
    assert tuple(arms) == ARMS
    return arms


def check_order(arms: dict[str, Any]) -> None:
    """Fine-tuning alone keeps least, EWC more, rehearsal most; and an update costs less than
    training anew."""
    (finetune,), (ewc,), (rehearsal,), _, _ = (arms[n]["final_average_accuracy"] for n in ARMS)
    assert finetune < ewc < rehearsal
    assert arms["rehearsal"]["steps"][0] < arms["scratch"]["steps"][0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("short", [False, True])
def test_a_study_can_be_read_with_its_workspace(name: str, short: bool) -> None:
    settings = config.load_file(STUDIES / f"{name}.workspace.toml", (), {})
    study = file.read(STUDIES / f"{name}.toml", settings, quick=short)
    assert set(ARMS) <= {arm.name for arm in study.arms}
    assert Path(study.settings.model.architecture).is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_order_of_methods_on_tickets(tmp_path: Path) -> None:
    path = tmp_path / "tickets.jsonl"
    tickets.write(path, [f"2026-0{n}" for n in range(1, 5)], 1200, 0)
    check_order(quick(tmp_path / "workspace", "tickets", str(path)))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not CLINC, reason="UPDATER_TEST_CLINC names no file with CLINC150")
def test_the_order_of_methods_on_clinc(tmp_path: Path) -> None:
    check_order(quick(tmp_path / "workspace", "clinc", CLINC))
