"""An export holds one tensor beside the model, whatever the file's size, alone and in shards."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from updater.nemotron import checkpoint, files
from updater.nemotron.saving import save_over
from updater.train.shards import Whole

DRIVER = Path(__file__).with_name("export_driver.py")
ROOT = Path(__file__).parents[3]
MIB = 2**20
MOST = 24 * MIB
"""The largest tensor has one MiB, a layer's experts 25 times that; the rest is what libraries take
when they are first called (measured: 1.4 MiB alone, 11 MiB in shards)."""


def run(*words: str, processes: int = 1) -> None:
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(several if processes > 1 else []), str(DRIVER), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of 110 MB, of a model that takes 220 MB in memory."""
    base = tmp_path_factory.mktemp("large") / "base"
    run(str(base))
    assert (base / files.SINGLE).stat().st_size > 100 * MIB
    return base


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_one_tensor_is_whole_at_a_time(large: Path, tmp_path: Path, processes: int) -> None:
    run(str(large), str(tmp_path / "x"), processes=processes)
    for rank in range(processes):
        grown = int((tmp_path / f"x-{rank}.txt").read_text())
        assert grown < MOST, rank
    before, after = (load_file(folder / files.SINGLE) for folder in (large, tmp_path / "x"))
    assert list(before) == list(after)
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor.float(), driver().numbers(name, tensor.shape)), name


def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_is_what_safetensors_would_write(base: Path, tmp_path: Path) -> None:
    tensors = {name: tensor + 1 for name, tensor in load_file(base / files.SINGLE).items()}
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    save_over(tensors, base / files.SINGLE, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_order_and_header_of_another_writer_are_kept(tmp_path: Path) -> None:
    """safetensors writes the largest dtype first, then by name; a base may have been written by
    something else."""
    fields = {
        "__metadata__": {"by": "another"},
        "kept": {"dtype": "I64", "shape": [2], "data_offsets": [8, 24]},
        "changed": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
    }
    text = json.dumps(fields, indent=1).encode() + b"   "
    header = struct.pack("<Q", len(text)) + text
    whole = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    data = torch.tensor([7, 8]).view(torch.uint8).numpy().tobytes()
    (tmp_path / "base").write_bytes(header + bytes(8) + data)
    save_over({"changed": whole.T, "other": whole}, tmp_path / "base", tmp_path / "x")
    new = whole.T.contiguous().bfloat16().view(torch.uint8).numpy().tobytes()
    assert (tmp_path / "x").read_bytes() == header + new + data


def test_each_tensor_is_asked_for_once_in_the_order_that_is_told(
    base: Path, tmp_path: Path
) -> None:
    """Processes that don't write ask by that order for their parts: another one would hang them."""
    model, _ = checkpoint.load(base)
    asked: list[str] = []

    class Noted(Whole):
        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().__getitem__(name)

    noted = Noted(model.state_dict())
    checkpoint.export_tensors(noted, base, tmp_path / "x")
    assert asked == list(checkpoint.exported(noted, base))
    assert sorted(asked) == sorted(noted)


def test_hidden_folders_of_a_clone_and_pickles_within_others_are_not_copied(
    release: Path, tmp_path: Path
) -> None:
    for name in (".git/objects/pack", ".cache/huggingface/lock", "extra/old.bin", ".gitattributes"):
        file = release / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    model, _ = checkpoint.load(release)
    exported = checkpoint.export(model, release, tmp_path / "exported")
    left_behind = {".git", ".cache", "extra/old.bin"}
    for name in left_behind:
        assert not (exported / name).exists()
    for name in (".gitattributes", "extra/reasoning_parser.py", "chat_template.jinja"):
        assert (exported / name).read_bytes() == (release / name).read_bytes()
