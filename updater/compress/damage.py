"""A model's losses without some of its parts, for `compression.damage`.

A part is silenced by zeros in its outgoing weights, in place; afterwards they are, bit for bit,
what they were. For a neuron, an expert and an attention head that is what its removal says. A
Mamba head is still counted in the norm of its group, and a layer's removal is exact, since all that
it says is added to the residual stream.

Shape suffixes: r rounds, p parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHAttention,
    NemotronHForCausalLM,
    NemotronHMamba2Mixer,
    NemotronHMLP,
    NemotronHMoE,
)

from compression.damage import Damage, estimate, masks
from compression.parts import Member
from updater.errors import UpdateError
from updater.nemotron.weights import released, released_name
from updater.progress import Progress
from updater.train.encode import Encoded, refuse_none
from updater.train.importance import batches
from updater.train.likelihood import negative_log_likelihood


@dataclass(frozen=True)
class Outgoing:
    """Parts that lie in the same tensors: `members` of their outgoing weights, by released names,
    each of every one of the parts. `name` is of what they belong to: a layer's mixer, or an expert.
    """

    name: str
    members: tuple[Member, ...]

    @property
    def num_parts(self) -> int:
        return len(self.members[0].entries)


def neurons(model: NemotronHForCausalLM) -> list[Outgoing]:
    """Of each dense MLP, shared expert and routed expert."""
    return [
        Outgoing(name, (Member.each(f"{name}.down_proj.weight", 1, width),))
        for name, width in _mlps(model)
    ]


def experts(model: NemotronHForCausalLM) -> list[Outgoing]:
    """The routed experts, each by itself. What is routed to one stays routed to it."""
    return [
        Outgoing(name, (_whole(f"{name}.down_proj.weight", 1, width),))
        for name, width in _mlps(model)
        if ".experts." in name
    ]


def heads(model: NemotronHForCausalLM) -> list[Outgoing]:
    """Of each Mamba-2 and attention layer."""
    found = []
    for name, mixer in _mixers(model):
        if isinstance(mixer, NemotronHMamba2Mixer):
            found.append(_heads(name, "out_proj", mixer.num_heads, mixer.head_dim))
        elif isinstance(mixer, NemotronHAttention):
            columns = mixer.o_proj.in_features
            found.append(_heads(name, "o_proj", columns // mixer.head_dim, mixer.head_dim))
    return found


def layers(model: NemotronHForCausalLM) -> list[Outgoing]:
    """Each layer's mixer as a whole."""
    sizes = {name: tensor.shape for name, tensor in released(model)}
    found = []
    for name, mixer in _mixers(model):
        last = [f"{name}.{one}.{kind}" for one in _last(mixer) for kind in ("weight", "bias")]
        members = [_whole(one, 0, sizes[one][0]) for one in last if one in sizes]
        found.append(Outgoing(name, tuple(members)))
    return found


KINDS: Mapping[str, Callable[[NemotronHForCausalLM], list[Outgoing]]] = MappingProxyType(
    {"neurons": neurons, "experts": experts, "heads": heads, "layers": layers}
)


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


def _mixers(model: NemotronHForCausalLM) -> Iterator[tuple[str, torch.nn.Module]]:
    for index, layer in enumerate(model.model.layers):
        yield released_name(f"model.layers.{index}.mixer"), layer.mixer


def _mlps(model: NemotronHForCausalLM) -> Iterator[tuple[str, int]]:
    """Released name and number of neurons of each."""
    for name, mixer in _mixers(model):
        if isinstance(mixer, NemotronHMLP):
            yield name, mixer.down_proj.in_features
        elif isinstance(mixer, NemotronHMoE):
            for expert in range(mixer.experts.num_experts):
                yield f"{name}.experts.{expert}", mixer.experts.down_proj.shape[-1]
            yield f"{name}.shared_experts", mixer.shared_experts.down_proj.in_features


def _last(mixer: torch.nn.Module) -> list[str]:
    """What a mixer's answer is the sum of."""
    if isinstance(mixer, NemotronHMamba2Mixer):
        return ["out_proj"]
    if isinstance(mixer, NemotronHAttention):
        return ["o_proj"]
    if isinstance(mixer, NemotronHMLP):
        return ["down_proj"]
    assert isinstance(mixer, NemotronHMoE)
    if isinstance(mixer.fc2_latent_proj, torch.nn.Linear):
        return ["fc2_latent_proj", "shared_experts.down_proj"]
    routed = [f"experts.{number}.down_proj" for number in range(mixer.experts.num_experts)]
    return [*routed, "shared_experts.down_proj"]


def _whole(name: str, dim: int, width: int) -> Member:
    """One part that is all of a tensor."""
    return Member(name, dim, torch.arange(width)[None])


def _heads(name: str, last: str, num_heads: int, width: int) -> Outgoing:
    columns = torch.arange(num_heads * width).view(num_heads, width)
    return Outgoing(name, (Member(f"{name}.{last}.weight", 1, columns),))
