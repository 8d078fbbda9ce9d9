"""The anchor on DTensor shards: two gloo processes give what one process gives."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from regularizers.anchor import QuadraticAnchor
from regularizers.formats import kept

GIVEN_AS = {
    "whole": "float32",
    "shards": "float32",
    "factored": "factored",
    "bfloat16": "bfloat16",
    "offloaded": "factored",
}  # how the anchor and the importance are given -> the importance's format


def network():
    torch.manual_seed(0)
    # 5 and 3 rows over two ranks: uneven shards, and one of a single row.
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def noise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) for name, p in model.named_parameters()}


def step(model, held):
    torch.manual_seed(1)
    model(torch.rand(6, 4)).square().mean().backward()
    parameters = dict(model.named_parameters())
    penalty = held.penalty(parameters)
    held.add_gradient(parameters)
    return penalty, {name: p.grad for name, p in parameters.items()}


def sharded(rank, folder):
    """What one of the two processes does: both ways of giving the anchor, results on disk."""
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for given_as, form in GIVEN_AS.items():
        model = network()
        anchor, importance = noise(model, 2), noise(model, 3)
        fully_shard(model, mesh=mesh)
        if given_as == "shards":
            anchor, importance = cut(model, anchor), cut(model, importance)
        else:
            importance = kept(importance, form)
        held = QuadraticAnchor(anchor, importance, 7.0)
        if given_as == "offloaded":
            held.settle(dict(model.named_parameters()), offload=True)
        penalty, gradients = step(model, held)
        assert all(isinstance(gradient, DTensor) for gradient in gradients.values())
        whole = {name: gradient.full_tensor() for name, gradient in gradients.items()}
        torch.save((penalty, whole), folder / f"{given_as}-{rank}.pt")
    refuse_columns(mesh)
    dist.destroy_process_group()


def refuse_columns(mesh):
    """Cut by columns, a rank has no whole row to take its sum from."""
    theta = distribute_tensor(torch.rand(6, 8), mesh, [Shard(1)])
    held = QuadraticAnchor({"w": torch.rand(6, 8)}, kept({"w": torch.rand(6, 8)}, "factored"), 1.0)
    with pytest.raises(ValueError, match=r"can't be cut like .* only along dimension 0"):
        held.penalty({"w": theta})


def cut(model, tensors):
    parameters = dict(model.named_parameters())
    return {
        name: distribute_tensor(whole, parameters[name].device_mesh, parameters[name].placements)
        for name, whole in tensors.items()
    }


def test_two_shards_are_held_like_one_whole(tmp_path):
    expected = {}
    for given_as, form in GIVEN_AS.items():
        model = network()
        importance = kept(noise(model, 3), form)
        expected[given_as] = step(model, QuadraticAnchor(noise(model, 2), importance, 7.0))
    # Not multiprocessing: under --import-mode=importlib a child can't import this file by name.
    command = [sys.executable, __file__, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    for given_as, rank in itertools.product(GIVEN_AS, (0, 1)):
        theirs, parts = torch.load(tmp_path / f"{given_as}-{rank}.pt")
        penalty, gradients = expected[given_as]
        torch.testing.assert_close(theirs, penalty)
        torch.testing.assert_close(parts, gradients)


if __name__ == "__main__":
    sharded(int(sys.argv[2]), Path(sys.argv[1]))
