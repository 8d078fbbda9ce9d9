"""This rank's part of a tensor that is cut over several, and sums over all parts.

Of DTensors (torch.distributed.tensor) and of plain tensors alike, so that the anchor need not know
which it holds. Called by `regularizers.anchor`, and where importances are read and scaled.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, distribute_tensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from regularizers.formats import Factored, Weight, parts


def local(tensor: Tensor) -> Tensor:
    """The memory of this rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_shard(tensor: Tensor) -> bool:
    """Whether this rank has a part of it."""
    return isinstance(tensor, DTensor)


def sharded_like(theta: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` cut as theta is. Every rank has the whole, so no rank sends anything."""
    if not isinstance(theta, DTensor):
        return tensor
    if isinstance(tensor, DTensor):
        return tensor.redistribute(theta.device_mesh, theta.placements)
    if not any(tensor.stride()):  # one number for all, which takes no more memory in shards
        shape = theta.to_local().shape
        one = tensor[(0,) * tensor.dim()].to(theta.device).expand(shape)
        return DTensor.from_local(
            one,
            theta.device_mesh,
            theta.placements,
            run_check=False,
            shape=theta.shape,
            stride=theta.stride(),
        )
    return distribute_tensor(tensor, theta.device_mesh, theta.placements, src_data_rank=None)


def weight_sharded_like(theta: Tensor, weight: Weight) -> Weight:
    """As `sharded_like`. Of a factored weight the parts that have one entry along dimension 0
    are every rank's.

    Raises:
        ValueError: a factored weight, and theta is cut along another dimension than 0.
    """
    if not isinstance(weight, Factored):
        return sharded_like(theta, weight)
    if not isinstance(theta, DTensor):
        return weight
    if not all(place.is_replicate() or place.is_shard(0) for place in theta.placements):
        cut = f"a factored importance can't be cut like {theta.placements}"
        raise ValueError(f"{cut}: only along dimension 0; keep it as float32 or bfloat16")
    return Factored(*(_rows_sharded_like(theta, part) for part in parts(weight)))


def _rows_sharded_like(theta: DTensor, part: Tensor) -> Tensor:
    if isinstance(part, DTensor):
        return part
    cut: tuple[Placement, ...] = theta.placements
    if part.shape[0] != theta.shape[0]:
        cut = (Replicate(),) * len(cut)
    return distribute_tensor(part, theta.device_mesh, cut, src_data_rank=None)


def is_cut_by_rows(theta: Tensor) -> bool:
    """Whether this rank has rows of theta, all of each, and there are others."""
    if not isinstance(theta, DTensor):
        return False
    return all(place.is_replicate() or place.is_shard(0) for place in theta.placements)


def rows_of(theta: Tensor) -> slice:
    """Which rows of a theta that is cut by rows are this rank's."""
    assert isinstance(theta, DTensor), "asked only of what is cut"
    shape, offset = compute_local_shape_and_global_offset(
        theta.shape, theta.device_mesh, theta.placements
    )
    return slice(offset[0], offset[0] + shape[0])


def shard_of(theta: Tensor, part: Tensor, shape: torch.Size, *, cut: bool) -> DTensor:
    """A tensor of that shape, of which this rank has `part`: its rows, cut as theta's are, or, not
    `cut`, all of it, as every rank has. It stays where it is, on the CPU too of a mesh of GPUs, as
    FSDP2 offloads parameters; `DTensor.from_local` would move it."""
    assert isinstance(theta, DTensor), "asked only of what is cut"
    places: tuple[Placement, ...] = theta.placements
    if not cut:
        places = (Replicate(),) * len(places)
    about = TensorMeta(shape, torch.empty(shape, device="meta").stride(), part.dtype)
    return DTensor(part, DTensorSpec(theta.device_mesh, places, about), requires_grad=False)


def all_rows(part: Tensor, theta: Tensor) -> Tensor:
    """All ranks' parts of a tensor that is cut along dimension 0 as theta is, one after the other;
    `part` itself where theta is whole. Every rank must ask."""
    if not isinstance(theta, DTensor):
        return part
    shape = torch.Size((theta.shape[0], *part.shape[1:]))
    return shard_of(theta, part, shape, cut=True).full_tensor()


def over_shards(value: Tensor, theta: Tensor) -> Tensor:
    """The sum of every rank's value, each shard counted once."""
    if not isinstance(theta, DTensor):
        return value
    kinds = [Replicate() if place.is_replicate() else Partial() for place in theta.placements]
    return DTensor.from_local(value, theta.device_mesh, kinds, run_check=False).full_tensor()
