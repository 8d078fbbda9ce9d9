"""Which parts of a Nemotron-H checkpoint can go as a whole, by the names of its tensors on disk.

A pure function of config.json. Not what a part is worth (`compression`), nor how many go
(`updater.nemotron.sparsity`), nor their removal (`updater.nemotron.smaller`).

Never listed: Mamba's head_dim, which all heads of a model share (with 48 in the place of Nano's 64
every trial of NVIDIA's failed), and what is inside attention, which they skip (Model-Optimizer,
examples/megatron_bridge/tutorials/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16/ABLATIONS.md).

A multi-token-prediction head has the backbone's sizes, so its parts go alike. A pass through the
backbone says nothing of them: rank them by the magnitude of their weights.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compression.parts import Member, totals
from updater.nemotron.layout import mtp_pattern, mtp_shapes, pattern, tensor_shapes
from updater.nemotron.sparsity import DENSE, EXPERT, EXPERTS, HEADS, LAYERS, SHARED, groups, sorts


@dataclass(frozen=True)
class Parts:
    """Parts that are ranked among themselves.

    Attributes:
        key: of these and no others: how the names of the tensors that they are in begin.
        size: the field of config.json that counts them, and those of the same sort elsewhere.
        count: how many there are.
        members: what they have of tensors that they share.
        groups: runs of equal length, one after the other, of which each loses as many.
        numbered: part p has beside, for itself, all tensors whose names begin with KEY.p.
        fixed: those that may not go.
        lifted: a tensor whose values, of the parts that stay, are multiplied by the root of how
            many there were over how many there are.
    """

    key: str
    size: str
    count: int
    members: tuple[Member, ...] = ()
    groups: int = 1
    numbered: bool = False
    fixed: tuple[int, ...] = ()
    lifted: str = ""

    @property
    def free(self) -> Tensor:
        """int64: the numbers of those that may go."""
        stays = torch.zeros(self.count, dtype=torch.bool)
        stays[list(self.fixed)] = True
        return (~stays).nonzero()[:, 0]

    def highest(self, scores: Tensor, num_kept: int) -> Tensor:
        """bool (count,), true for so many: those with the highest scores, as many in each group. Of
        equal scores the first goes.

        Raises:
            ValueError: scores of another shape; a number that is no multiple of the groups, or
                less than those that may not go.
        """
        if scores.shape != (self.count,):
            wanted = f"must be ({self.count},)"
            raise ValueError(f"scores of {self.key!r} have shape {tuple(scores.shape)}: {wanted}")
        least = max(self.groups, len(self.fixed))
        if num_kept % self.groups or not least <= num_kept <= self.count:
            rule = f"must be {least} to {self.count}, and a multiple of {self.groups}"
            raise ValueError(f"{num_kept} of {self.key!r} are to stay: {rule}")
        ranked_gn = scores.detach().to("cpu", torch.float64, copy=True)
        ranked_gn[list(self.fixed)] = math.inf
        ranked_gn = ranked_gn.view(self.groups, -1)
        num_going = (self.count - num_kept) // self.groups
        going = ranked_gn.argsort(dim=1, stable=True)[:, :num_going]
        return torch.ones_like(ranked_gn, dtype=torch.bool).scatter_(1, going, False).flatten()

    def totals(self, scores: Callable[[str], Tensor], names: Iterable[str]) -> Tensor:
        """float32 (count,): the sum of its weights' scores of each part, in the tensors that it
        shares as `compression.parts.totals` has it, and in those of its own.

        Args:
            scores: the name of a tensor -> its weights' scores; asked for once each.
            names: of the checkpoint's tensors.
        """
        found = totals(scores, self.members) if self.members else torch.zeros(self.count)
        own = f"{self.key}."
        for name in names if self.numbered else ():
            if name.startswith(own):
                number = int(name.removeprefix(own).split(".")[0])
                found[number] += scores(name).float().sum().to(found.device)
        return found


def listed(
    fields: Mapping[str, Any],
    kind: str,
    *,
    head: bool = True,
    attention: bool = False,
    where: str,
) -> Iterator[Parts]:
    """All parts of the kind, in the order of the layers: neurons of each dense MLP, shared expert
    and routed expert; routed experts of each layer, in the router's groups; heads of each Mamba
    layer, in the groups that share B and C; layers of the backbone.

    Args:
        fields: a config.json in released form.
        kind: a key of `sparsity.KINDS`.
        head: also those of the multi-token-prediction head, where the fields ask for one: whether
            the checkpoint has it (`mtp.has_head`).
        attention: attention layers may go as well, but for the last one (`cuts.cut`).
        where: what an error message calls the config.json.

    Raises:
        InputError: no such kind, or as `layout.tensor_shapes`.
    """
    wanted = sorts(kind)
    shapes = tensor_shapes(fields, where=where)
    letters = pattern(fields, where=where)
    if LAYERS in wanted:
        fixed = [] if attention else [i for i, letter in enumerate(letters) if letter == "*"]
        layers = "backbone.layers"
        yield Parts(layers, LAYERS, len(letters), numbered=True, fixed=tuple(fixed))
        return
    mixers = [(f"backbone.layers.{i}.mixer", letter) for i, letter in enumerate(letters)]
    if head:
        shapes |= mtp_shapes(fields, where=where)
        letters = mtp_pattern(fields, where=where)
        mixers += [(f"mtp.layers.{i}.mixer", letter) for i, letter in enumerate(letters)]
    for mixer, letter in mixers:
        if letter == "M" and HEADS in wanted:
            yield _heads(fields, mixer, shapes)
        elif letter == "-" and DENSE in wanted:
            yield from _neurons(fields, DENSE, [mixer], shapes)
        elif letter == "E" and EXPERTS in wanted:
            yield _experts(fields, mixer)
        elif letter == "E" and EXPERT in wanted:
            experts = [f"{mixer}.experts.{n}" for n in range(fields[EXPERTS])]
            yield from _neurons(fields, SHARED, [f"{mixer}.shared_experts"], shapes)
            yield from _neurons(fields, EXPERT, experts, shapes)


def _heads(fields: Mapping[str, Any], mixer: str, shapes: Mapping[str, object]) -> Parts:
    """in_proj makes [z, x, B, C, dt] and conv1d takes [x, B, C], of which B and C are the groups'
    (transformers, NemotronHMamba2Mixer); head h is of group h // (heads / groups). The gated norm
    takes a mean over a group's channels, in which heads that say nothing count and those that are
    gone do not: for that its weight is lifted."""
    count, width = fields[HEADS], fields["mamba_head_dim"]
    inner = count * width
    heads = torch.arange(count)[:, None]
    channels = torch.arange(inner).view(count, width)
    first_dt = 2 * (inner + fields["n_groups"] * fields["ssm_state_size"])
    rows = torch.cat([channels, inner + channels, first_dt + heads], dim=1)
    norm = f"{mixer}.norm.weight"
    members = _members(
        shapes,
        (f"{mixer}.in_proj.weight", 0, rows),
        (f"{mixer}.in_proj.bias", 0, rows),
        (f"{mixer}.conv1d.weight", 0, channels),
        (f"{mixer}.conv1d.bias", 0, channels),
        (f"{mixer}.A_log", 0, heads),
        (f"{mixer}.D", 0, heads),
        (f"{mixer}.dt_bias", 0, heads),
        (norm, 0, channels),
        (f"{mixer}.out_proj.weight", 1, channels),
    )
    return Parts(mixer, HEADS, count, members, groups(fields, HEADS), lifted=norm)


def _experts(fields: Mapping[str, Any], mixer: str) -> Parts:
    count = fields[EXPERTS]
    shared = (f"{mixer}.gate.weight", f"{mixer}.gate.e_score_correction_bias")
    members = tuple(Member.each(name, 0, count) for name in shared)
    in_groups = groups(fields, EXPERTS)
    return Parts(f"{mixer}.experts", EXPERTS, count, members, in_groups, numbered=True)


def _neurons(
    fields: Mapping[str, Any], size: str, mlps: Iterable[str], shapes: Mapping[str, object]
) -> Iterator[Parts]:
    # One tensor for all: Super has 20,480 experts.
    each = torch.arange(fields[size])[:, None]
    for mlp in mlps:
        members = _members(
            shapes,
            (f"{mlp}.up_proj.weight", 0, each),
            (f"{mlp}.up_proj.bias", 0, each),
            (f"{mlp}.down_proj.weight", 1, each),
        )
        yield Parts(mlp, size, fields[size], members)


def _members(shapes: Mapping[str, object], *of: tuple[str, int, Tensor]) -> tuple[Member, ...]:
    """Those of the tensors that the model has: biases are there or not."""
    return tuple(Member(*one) for one in of if one[0] in shapes)
