"""A model's losses without some of its parts, for `compression.damage`.

A part is silenced by zeros in its outgoing weights, in place; afterwards they are, bit for bit,
what they were. For a neuron and an expert that is what its removal says. A Mamba head is still
counted in the norm of its group, and a layer's removal is exact, since all that it says is added to
the residual stream. Which parts there are is `updater.nemotron.parts`'s to say.

Shape suffixes: r rounds, p parts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from compression.damage import Damage, estimate, masks
from compression.parts import Member
from updater.errors import UpdateError
from updater.nemotron.parts import Parts
from updater.nemotron.weights import released
from updater.progress import Progress
from updater.train.encode import Encoded, refuse_none
from updater.train.importance import batches
from updater.train.likelihood import negative_log_likelihood

_ENDS = re.compile(r"\.(out|o|down|fc2_latent)_proj\.(weight|bias)$")
"""How the names of the tensors end by which a layer, or an expert, says something."""


@dataclass(frozen=True)
class Outgoing:
    """Parts that lie in the same tensors: `members` of their outgoing weights, by released names,
    each of every one of the parts. `key`: of the `Parts` that they are of.
    """

    key: str
    members: tuple[Member, ...]

    @property
    def num_parts(self) -> int:
        return len(self.members[0].entries)


def outgoing(parts: Parts, sizes: Mapping[str, int]) -> list[Outgoing]:
    """Of parts in their order, but for those that may not go. What is routed to an expert stays
    routed to it.

    Args:
        sizes: of each of the model's tensors, by its released name, the first dimension.
    """
    if not parts.numbered:
        columns = tuple(member for member in parts.members if member.dim == 1)
        return [Outgoing(parts.key, columns)]
    last: dict[int, list[Member]] = {number: [] for number in parts.free.tolist()}
    own = f"{parts.key}."
    for name, size in sizes.items():
        if name.startswith(own) and _ENDS.search(name):
            number = int(name.removeprefix(own).split(".")[0])
            if number in last:
                last[number].append(Member(name, 0, torch.arange(size)[None]))
    return [Outgoing(parts.key, tuple(members)) for members in last.values()]


def damage(
    model: NemotronHForCausalLM,
    examples: Encoded,
    parts: Sequence[Outgoing],
    *,
    num_rounds: int,
    kept: float,
    seed: int,
    batch_size: int,
    progress: bool = True,
) -> Damage:
    """The damage of each part, in the order of `parts`, in nats a completion token.

    Args:
        num_rounds: forward passes over all examples.
        kept: with what chance a part stays in a round.
        batch_size: examples of one length that go through together.

    Raises:
        UpdateError: there is no example, or a loss is no number.
        ValueError: as `compression.damage.masks`.
    """
    num_parts = sum(one.num_parts for one in parts)
    kept_rp = masks(num_parts, num_rounds, kept, torch.Generator().manual_seed(seed))
    found = losses(model, examples, parts, kept_rp, batch_size=batch_size, progress=progress)
    return estimate(kept_rp, found)


@torch.no_grad()
def losses(
    model: NemotronHForCausalLM,
    examples: Encoded,
    parts: Sequence[Outgoing],
    kept_rp: Tensor,
    *,
    batch_size: int,
    progress: bool = True,
) -> Tensor:
    """float64 (r,): the mean negative log-likelihood of a completion token in each round, in nats.
    The model's weights must be whole, not in shards; it is left in evaluation mode.

    Args:
        kept_rp: bool, true where a part stays.

    Raises:
        UpdateError: there is no example, or a loss is no number.
        ValueError: a part that a tensor does not have, or masks of another number of parts.
    """
    num_parts = sum(one.num_parts for one in parts)
    if kept_rp.shape[1:] != (num_parts,):
        raise ValueError(f"masks have shape {tuple(kept_rp.shape)}: must be (rounds, {num_parts})")
    refuse_none(examples, what="compression")
    model.eval()
    tensors = dict(released(model))
    found = torch.zeros(len(kept_rp), dtype=torch.float64)
    with Progress("damage", len(kept_rp), unit="rounds", shown=progress) as shown:
        for number, kept_p in enumerate(kept_rp):
            with _silenced(tensors, parts, kept_p):
                found[number] = _mean_loss(model, examples, batch_size)
            if not bool(found[number].isfinite()):
                raise UpdateError(f"the loss of round {number} is no number: the model diverges")
            shown.update(1)
    return found


def _mean_loss(model: NemotronHForCausalLM, examples: Encoded, batch_size: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for batch in batches(model, examples, batch_size):
        total += negative_log_likelihood(model, batch)[0].sum(dtype=torch.float64)
    return total / int(examples.completion_lengths.sum())


@contextmanager
def _silenced(
    tensors: Mapping[str, Tensor], parts: Sequence[Outgoing], kept_p: Tensor
) -> Iterator[None]:
    """In the block the parts that don't stay say nothing. Of weights only those that are zeroed are
    held beside."""
    held = []
    try:
        of_each = kept_p.cpu().split([one.num_parts for one in parts])
        for one, kept in zip(parts, of_each, strict=True):
            for member in one.members:
                tensor, going = tensors[member.name], member.entries[~kept].flatten()
                if len(going):
                    _check_within(member, tensor)
                    going = going.to(tensor.device)
                    was = tensor.index_select(member.dim, going)
                    held.append((tensor, member.dim, going, was))
                    tensor.index_fill_(member.dim, going, 0)
        yield
    finally:
        # Backwards: parts that share a weight get what it was at first.
        for tensor, dim, going, was in reversed(held):
            tensor.index_copy_(dim, going, was)


def _check_within(member: Member, tensor: Tensor) -> None:
    size, last = tensor.shape[member.dim], int(member.entries.max())
    if last >= size:  # which a GPU would tell by dying
        raise ValueError(f"{member.name!r} has {size} entries there, and a part has entry {last}")
