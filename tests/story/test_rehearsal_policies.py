"""The policies that look at examples, through whole updates by the public commands."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import command

from rehearsal import window
from rehearsal.choice import Picked
from rehearsal.manifest import Manifest
from updater import doctor, opening
from updater.errors import InputError
from updater.report.collect import collect
from updater.report.page import render
from updater.steps import rehearse
from updater.workspace import Workspace

pytestmark = pytest.mark.slow
BUDGET = 48


@pytest.fixture(scope="module")
def two_learnt(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace whose deployed version has learnt north and east."""
    folder = lay_out(tmp_path_factory.mktemp("policies") / "ws")
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "east", "--deploy")
    return folder


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "hard", "surprise"])
def test_an_update_rehearses_by_it(two_learnt: Path, policy: str) -> None:
    overrides = [f"rehearsal.policy={policy}", f"rehearsal.budget={BUDGET}"]
    overrides += ["rehearsal.fraction=none", "rehearsal.pool_factor=2", "gate.approval=manual"]
    sets = [word for one in overrides for word in ("--set", one)]
    answer = command(two_learnt, "update", "south", *sets)

    workspace = Workspace.open(two_learnt, overrides)
    update = workspace.ledger.update(answer["update"])
    manifest = rehearse.manifest_of(workspace, update)
    assert (manifest.policy, manifest.num_examples) == (policy, BUDGET)
    trained = workspace.ledger.step(update.id, "train")
    assert trained is not None
    assert trained.result["num_rehearsed"] == BUDGET
    asks = policy in ("hard", "surprise")
    assert (answer["compute_seconds"]["rehearse"] > 0) == asks
    is_picked = [isinstance(choice, Picked) for choice in manifest.choices]
    assert is_picked == [policy != "reservoir"] * 2

    table = window.load(manifest, lambda v: workspace.datasets.path(v, "train.parquet"))
    assert len(set(table["id"].to_pylist())) == BUDGET
    if policy == "class_balanced":
        assert set(Counter(table["completion"].to_pylist()).values()) == {BUDGET // 6}

    again = rehearse.run(workspace, update)  # as after a kill
    assert Manifest.from_json(again["manifest"]) == manifest
    page = render(collect(workspace, answer["candidate"]))
    assert f"“{policy}”" in page
    assert ("picked one by one" in page) == (policy != "reservoir")


TINY = doctor.Machine("cpu", (), 2**20, 2, kernels=False)


@pytest.mark.parametrize("policy", ["hard", "surprise"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.packing=true", "fused Mamba-2 kernels"),
        ("training.devices=8", "this machine has 1 GPUs"),
        ("training.seed=5", r"takes \d+ GiB of each device"),
    ],
)
def test_what_can_not_be_trained_here_is_refused_before_the_base_is_asked(
    two_learnt: Path, monkeypatch: pytest.MonkeyPatch, policy: str, setting: str, message: str
) -> None:
    """The kernels are missing indeed; a machine of one GPU or with one MiB is made up."""
    workspace = Workspace.open(two_learnt, [f"rehearsal.policy={policy}", setting])
    update = opening.open_update(workspace, "south")
    if "devices" in setting:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    if "seed" in setting:
        monkeypatch.setattr(doctor, "this_machine", lambda: TINY)
    asked: list[object] = []
    monkeypatch.setattr(rehearse, "answers", lambda *given, **_: asked.append(given))
    with pytest.raises(InputError, match=message):
        rehearse.run(workspace, update)
    assert not asked
