"""An importance read in shards is bit for bit the whole one's, and of the file no more is read.

Two gloo processes, as `regularizers.stored` is used by: each is this file, run.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from regularizers import stored
from regularizers.formats import FORMATS, parts
from regularizers.importance import Importance, load, save
from regularizers.scale import SCALES, scaled
from regularizers.shards import local, weight_sharded_like

LARGE = "large.safetensors"
MIB = 2**20


class Network(nn.Module):
    """A vector, a matrix, a stack of five (of uneven shards), and one of a single row."""

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(7))
        self.matrix = nn.Parameter(torch.zeros(20, wide))
        self.stack = nn.Parameter(torch.zeros(5, 16, wide))
        self.single = nn.Parameter(torch.zeros(1, wide))


def importance(network: nn.Module) -> Importance:
    torch.manual_seed(3)
    tensors = {name: torch.rand(p.shape) for name, p in network.named_parameters()}
    return Importance(tensors, "empirical", 8, "c", "d")


def sharded(rank: int, folder: Path) -> None:
    """What one of the two processes does."""
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    network = Network()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    for kept, form, scale in product(FORMATS, FORMATS, SCALES):
        path = folder / f"{kept}.safetensors"
        found = scaled(stored.cut(path, parameters, form), scale)
        whole = scaled(load(path).in_format(form).tensors, scale)
        assert list(found) == list(whole)
        for name, weight in whole.items():
            theirs, mine = weight_sharded_like(parameters[name], weight), found[name]
            assert type(mine) is type(theirs)
            assert mine.shape == weight.shape
            for part, expected in zip(parts(mine), parts(theirs), strict=True):
                assert isinstance(part, DTensor)
                assert torch.equal(local(part), local(expected)), (kept, form, scale, name)
                assert part.placements == expected.placements
                assert torch.equal(part.full_tensor(), expected.full_tensor())
    (folder / f"grown-{rank}").write_text(str(grown(folder / LARGE)))
    dist.destroy_process_group()


def grown(path: Path) -> int:
    """Bytes that this process grows by when it reads its part of a large file."""
    network = Network(wide=2**17)
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    before = resident()
    found = stored.cut(path, dict(network.named_parameters()), "float32")
    assert found["stack"].shape == network.stack.shape
    return resident() - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_two_processes_read_their_rows_alone(tmp_path: Path) -> None:
    whole = importance(Network())
    for form in FORMATS:
        save(whole.in_format(form), tmp_path / f"{form}.safetensors")
    save(importance(Network(wide=2**17)), tmp_path / LARGE)
    size = (tmp_path / LARGE).stat().st_size
    assert size > 50 * MIB
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    for rank in (0, 1):
        assert int((tmp_path / f"grown-{rank}").read_text()) < 0.7 * size


def test_of_whole_parameters_all_is_read(tmp_path: Path) -> None:
    network = Network()
    path = tmp_path / "importance.safetensors"
    save(importance(network), path)
    for form in FORMATS:
        found = stored.cut(path, dict(network.named_parameters()), form)
        whole = load(path).in_format(form).tensors
        assert list(found) == list(whole)
        for name, weight in whole.items():
            for part, expected in zip(parts(found[name]), parts(weight), strict=True):
                assert torch.equal(part, expected)


def spoilt(path: Path, name: str, value: float) -> None:
    """One entry is another, as if it had been saved so: the digest fits."""
    tensors = load_file(path)
    tensors[name].view(-1)[0] = value
    about = (
        '{"checkpoint_digest": "", "data_digest": "", "estimator": "mas", "format": "float32",'
        f' "num_examples": 1, "sha256": "{stored.digest(sorted(tensors.items()))}"}}'
    )
    save_file(tensors, path, {"importance": about})


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b"x" * 50),
        flip,
        lambda path: spoilt(path, "matrix", -1.0),
        lambda path: spoilt(path, "matrix", float("nan")),
        lambda path: save_file({"w": torch.rand(2)}, path),
    ],
)
def test_what_can_not_be_loaded_is_not_verified(spoil: object, tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    save(importance(Network()), path)
    stored.verify(path)
    spoil(path)  # type: ignore[operator]
    for read in (load, stored.verify):
        with pytest.raises(ValueError, match=r"importance\.safetensors is no importance, or dam"):
            read(path)


def test_half_of_a_factored_weight_is_no_importance(tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    save(importance(Network()).in_format("factored"), path)
    tensors = load_file(path)
    del tensors["matrix#rows"]
    save_file(tensors, path, {"importance": '{"format": "factored", "sha256": ""}'})
    with pytest.raises(ValueError, match="KeyError: 'matrix#rows'"):
        stored.verify(path)


if __name__ == "__main__":
    sharded(int(sys.argv[2]), Path(sys.argv[1]))
