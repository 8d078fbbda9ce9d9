"""Parts of a network that go as a whole: neurons, experts, heads.

A part is some entries along one dimension of each of several tensors: of a neuron a row of the
matrix before it and a column of the one after; of an expert one place in each stack and a row of
the router; of a Mamba head rows of several segments. Whoever knows the model says which
(`Member`); here parts are scored, and cut out of tensors. Not the choice among them
(`compression.masks`, of the totals as a tensor of one entry a part).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Member:
    """What all parts of a kind have in one tensor.

    Attributes:
        name: of the tensor.
        dim: along which they lie.
        entries: int64 (parts, width): part p has the entries `entries[p]` of the dimension. What
            no part has belongs to all and stays.
    """

    name: str
    dim: int
    entries: Tensor

    def __post_init__(self) -> None:
        if self.entries.ndim != 2 or self.entries.dtype != torch.int64:
            kind = f"{self.entries.dtype} of shape {tuple(self.entries.shape)}"
            raise ValueError(f"the parts of {self.name!r} are {kind}: must be int64 (parts, width)")
        if self.entries.numel() and int(self.entries.min()) < 0:
            raise ValueError(f"the parts of {self.name!r}: an entry is negative")
        if len(self.entries.unique()) != self.entries.numel():
            raise ValueError(f"the parts of {self.name!r}: an entry is in two of them")

    @classmethod
    def each(cls, name: str, dim: int, count: int) -> "Member":
        """Of a dimension of which every entry is a part."""
        return cls(name, dim, torch.arange(count)[:, None])


def totals(scores: Callable[[str], Tensor], members: Sequence[Member]) -> Tensor:
    """The score of each part, float32 (parts,): the sum over all its weights, as of OBD, where to
    remove several adds up when nothing off the diagonal counts (LeCun, Denker & Solla 1989).

    Args:
        scores: the name of a tensor -> its weights' scores; asked once a member.
        members: of parts of one kind, each of every part.

    Raises:
        ValueError: there is no member, or they have not the same number of parts.
    """
    found: Tensor | None = None
    for member in members:
        of_entries = _flat(scores(member.name).float(), member.dim).sum(1)
        of_parts = of_entries[_within(member, len(of_entries)).to(of_entries.device)].sum(1)
        if found is not None and len(found) != len(of_parts):
            raise ValueError(f"{member.name!r} has {len(of_parts)} parts, others {len(found)}")
        found = of_parts if found is None else found + of_parts.to(found.device)
    if found is None:
        raise ValueError("parts without a member: they are nothing")
    return found


def without(tensor: Tensor, member: Member, kept: Tensor) -> Tensor:
    """A copy of the tensor that the member is of, without the parts that `kept` is false for: the
    other entries in their order.

    Raises:
        ValueError: `kept` is not bool (parts,).
    """
    if kept.dtype != torch.bool or kept.shape != member.entries.shape[:1]:
        wanted = f"must be bool ({len(member.entries)},)"
        raise ValueError(f"kept of {member.name!r} is {kept.dtype} {tuple(kept.shape)}: {wanted}")
    size = tensor.shape[member.dim]
    stays = torch.ones(size, dtype=torch.bool)
    stays[_within(member, size)[~kept.cpu()].flatten()] = False
    return tensor.index_select(member.dim, stays.nonzero()[:, 0].to(tensor.device))


def _flat(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]


def _within(member: Member, size: int) -> Tensor:
    if member.entries.numel() and int(member.entries.max()) >= size:
        last = int(member.entries.max())
        raise ValueError(f"{member.name!r} has {size} entries there, and a part has entry {last}")
    return member.entries
