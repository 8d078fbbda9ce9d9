"""The studies of docs/studies: they can be read, and the quick form shows the order of methods."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from updater import config
from updater.initialise import init_workspace
from updater.study import file

STUDIES = Path(__file__).parents[3] / "docs" / "studies"
NAMES = sorted(path.stem for path in STUDIES.glob("*.toml") if "." not in path.stem)
DATA = Path(__file__).parents[2] / "data"
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
    """Fine-tuning alone keeps least, EWC more, rehearsal most, on average over the seeds; and an
    update costs less than training anew."""
    finetune, ewc, rehearsal = (mean(arms[n]["final_average_accuracy"]) for n in ARMS[:3])
    assert finetune < ewc < rehearsal
    assert max(arms["rehearsal"]["steps"]) < min(arms["scratch"]["steps"])


@pytest.mark.parametrize("name", NAMES)
def test_a_study_can_be_read_with_its_workspace(name: str) -> None:
    workspace = STUDIES / f"{name}.workspace.toml"
    if not workspace.is_file():  # several studies of one stream share a workspace
        workspace = STUDIES / f"{name.partition('-')[0]}.workspace.toml"
    settings = config.load_file(workspace, (), {})
    path = STUDIES / f"{name}.toml"
    study = file.read(path, settings)
    assert study.uncompressed or "rehearsal" in {arm.name for arm in study.arms}
    if "[quick]" in path.read_text("utf-8"):
        short = file.read(path, settings, quick=True)
        is_other = short.replay or short.uncompressed
        assert is_other or tuple(arm.name for arm in short.arms) == ARMS
    assert Path(study.settings.model.architecture).is_file()


def test_the_documentation_lists_every_study() -> None:
    text = (STUDIES.parent / "studies.md").read_text("utf-8")
    assert [name for name in NAMES if f"(studies/{name}.toml)" not in text] == []


def test_the_real_studies_compare_ours_with_avalanches() -> None:
    for name in ("clinc", "headlines"):
        settings = config.load_file(STUDIES / f"{name}.workspace.toml", (), {})
        path = STUDIES / f"{name}.toml"
        found = {(pair.arm, pair.reference) for pair in file.read(path, settings).pairs}
        assert {("rehearsal", "avalanche-replay"), ("ewc", "avalanche-ewc")} <= found
        short = file.read(path, settings, quick=True).pairs
        assert [(pair.arm, pair.reference) for pair in short] == [("rehearsal+ewc", "ewc")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "data"),
    [("clinc", "clinc150-3-domains"), ("headlines", "headlines-2018-2020")],
)
def test_the_order_of_methods_on_real_data(name: str, data: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(gzip.decompress((DATA / f"{data}.jsonl.gz").read_bytes()))
    check_order(quick(tmp_path / "workspace", name, str(rows)))
