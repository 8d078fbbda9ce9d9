"""A checkpoint of the released form, through the command line: adopted, updated, served."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import answered
from releasing import as_released
from safetensors.torch import load_file, save_file

from updater import doctor
from updater.nemotron import checkpoint
from updater.nemotron.files import Header, read_header

pytestmark = pytest.mark.slow

QUICK = ("training.epochs=1", "training.learning_rate=1e-2", "gate.margin_fraction=0.99")
LORA = ("training.adapt=lora", "training.precision=bf16-mixed")


def settings(*more: str) -> list[str]:
    return [word for one in (*QUICK, *more) for word in ("--set", one)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_json: str) -> Path:
    """As NVIDIA releases one, of the stories' architecture and with random weights."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "config.json").write_text(tiny_json)
    texts = [f"the old snow {n} ? ski, rice ? bowl" for n in range(50)]
    base = checkpoint.create(
        str(folder / "config.json"), texts, folder / "base", vocabulary_size=320, seed=1
    )
    return as_released(base, folder / "release")


@pytest.fixture(scope="module")
def adopted(
    release: Path, tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]
) -> Path:
    folder = lay_out(tmp_path_factory.mktemp("adopted") / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "adopt", str(release), "--periods", "north")
    return folder


def weights(folder: Path) -> dict[str, Header]:
    return {path.name: read_header(path) for path in sorted(folder.glob("*.safetensors"))}


def tensors(folder: Path) -> dict[str, bytes]:
    """The bytes of each tensor, by its name."""
    found = {}
    for name, header in weights(folder).items():
        whole = (folder / name).read_bytes()
        for tensor, entry in header.entries.items():
            start = header.starts[tensor]
            found[tensor] = whole[start : start + entry.num_bytes]
    return found


def others(folder: Path) -> dict[str, bytes]:
    """Every file without weights, config.json and the index among them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".safetensors"
    }


def moves(name: str, adapt: str) -> bool:
    """Whether an update moves the tensor at all: never a router or a head; under LoRA nothing but
    what has factors."""
    if name.startswith("mtp.") or ".gate." in name:
        return False
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "up_proj", "down_proj")
    return adapt == "full" or (
        ".experts." not in name and name.removesuffix(".weight").endswith(linear)
    )


@pytest.mark.parametrize(("adapt", "more"), [("full", ()), ("lora", LORA)])
def test_what_is_served_differs_in_what_was_learnt_alone(
    adopted: Path, release: Path, tmp_path: Path, adapt: str, more: tuple[str, ...]
) -> None:
    """Names, shapes, dtypes, shards and their order, the index, and every other file are the
    release's, byte for byte."""
    chosen = settings("gate.approval=manual", *more)
    answer, _ = answered(adopted, "update", "east", *chosen)
    served = tmp_path / "served"
    answered(adopted, "export", answer["candidate"], str(served))
    before, after = weights(release), weights(served)
    assert before.keys() == after.keys()
    assert len(before) == 2
    for file, header in before.items():
        told = [(n, e.dtype, e.shape) for n, e in header.entries.items()]
        assert told == [(n, e.dtype, e.shape) for n, e in after[file].entries.items()]
        assert after[file].metadata == header.metadata
    assert others(served) == others(release)
    was, now = tensors(release), tensors(served)
    moved = {name for name in was if was[name] != now[name]}
    assert moved
    assert all(moves(name, adapt) for name in moved), moved
    if adapt == "lora":
        assert moved == {name for name in was if moves(name, adapt)}
    told = [
        answered(adopted, "doctor", "--model", str(folder), "--no-timing", *settings(*more))[0]
        for folder in (release, served)
    ]
    assert told[0]["model"] == told[1]["model"]
    assert told[0]["ways"] == told[1]["ways"]
    model = told[1]["model"]
    assert (model["mtp"], model["chat_template"], model["num_files"]) == ("whole", True, 2)
    assert model["dtypes"].keys() == {"BF16", "F32"}
    assert told[1]["ways"][0]["adapt"] == adapt
    assert told[1]["ways"][0]["fits"]
    assert told[1]["ways"][0]["answers_parts"]["weights"] > 0


def small(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A machine of 64 KiB, which the release's 300 KB do not fit."""
    names = ("a small one",) if device == "cuda" else ()
    machine = doctor.Machine(device, names, 2**16, 1, kernels=False)
    monkeypatch.setattr(doctor, "this_machine", lambda: machine)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a model is made or loaded")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("adopt", "GiB of each. take a larger one, or let more GPUs have a part"),
        ("scratch", "GiB of each. take a smaller model.architecture"),
    ],
)
def test_a_first_version_that_can_not_fit_is_refused_and_nothing_is_left_behind(
    release: Path,
    lay_out: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    command: str,
    words: str,
) -> None:
    folder = lay_out(tmp_path / "ws")
    answered(folder, "init", str(folder))
    before = contents(folder)
    small(monkeypatch, device)
    for name in ("load", "create"):
        monkeypatch.setattr(checkpoint, name, refuse)
    given = (str(release),) if command == "adopt" else ()
    _, said = answered(folder, command, *given, "--periods", "north", code=2)
    assert words in said.replace("\n", " ")
    assert contents(folder) == before
    assert answered(folder, "status")[0]["unfinished"] == []


def contents(folder: Path) -> dict[str, Any]:
    """Every file but the databases', which are asked, and what commands lock the workspace by."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".db" not in path.name and path.name != ".lock"
    }


def test_what_was_updated_is_deployed_in_the_place_of_the_release(
    adopted: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(adopted, folder, symlinks=True)
    answer, _ = answered(folder, "update", "east", *settings("gate.approval=manual"))
    version = answer["candidate"]
    told, _ = answered(folder, "promote", version, "--reason", "test", "--force")
    assert (told["deployed"], told["previous"]) == (version, "1")
    answered(folder, "export", version, str(tmp_path / "served"))
    assert others(tmp_path / "served") == others(release)
    assert answered(folder, "status")[0]["learnt"] == ["north", "east"]


def test_weights_that_are_no_numbers_are_not_adopted(
    release: Path, tmp_path: Path, lay_out: Callable[[Path], Path]
) -> None:
    """Nothing is copied, versioned or left open."""
    folder, broken = lay_out(tmp_path / "ws"), tmp_path / "broken"
    shutil.copytree(release, broken)
    file = sorted(broken.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    answered(folder, "init", str(folder))
    _, said = answered(folder, "adopt", str(broken), "--periods", "north", code=2)
    assert f"{file}: {name} has entries that are no number" in said
    assert "take a whole copy" in said
    answer, _ = answered(folder, "status")
    assert answer["unfinished"] == []
    assert not any((folder / "checkpoints").iterdir())
    assert not (folder / "data").exists() or not any((folder / "data").rglob("*.parquet"))
