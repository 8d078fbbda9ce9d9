"""What a checkpoint without some of its parts is: its sizes, and of each tensor name and shape.

A pure function of config.json's fields and of which parts stay. Not the files
(`updater.nemotron.smaller`, which calls it).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compression.parts import Member, without
from updater.errors import InputError, did_you_mean
from updater.nemotron.layout import pattern
from updater.nemotron.parts import Parts, listed
from updater.nemotron.sparsity import KINDS, LAYERS, fewest, unit

_HEAD = "mtp."


@dataclass(frozen=True)
class Cut:
    """The way from a checkpoint to the smaller one.

    Attributes:
        sizes: by config.json's fields, how many stay of each sort that was cut.
        layers: of each layer whether it stays.
        names: the new name of each tensor that stays, by the one it had.
        members: of tensors that get smaller, what goes along with which parts.
        lifts: by what a tensor's values are multiplied.
    """

    sizes: Mapping[str, int]
    layers: Sequence[bool]
    names: Mapping[str, str]
    members: Mapping[str, tuple[Member, Tensor]]
    lifts: Mapping[str, float]

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """That of the tensor of this name when it is cut."""
        found = list(shape)
        if name in self.members:
            member, kept = self.members[name]
            found[member.dim] -= member.entries[~kept].numel()
        return tuple(found)

    def tensor(self, name: str, whole: Tensor) -> Tensor:
        """That of this name, cut; a lifted one is float32."""
        if name in self.members:
            whole = without(whole, *self.members[name])
        return whole.float() * self.lifts[name] if name in self.lifts else whole


def cut(
    fields: Mapping[str, Any], kept: Mapping[str, Tensor], names: Collection[str], *, where: str
) -> Cut:
    """What is left of a checkpoint with tensors of these names.

    Args:
        fields: its config.json in released form.
        kept: which parts stay, bool (count,), by `Parts.key`. Of a sort that is cut all that stay
            in the model must be there, those of its multi-token-prediction head too.
        where: what an error message calls the config.json.

    Raises:
        InputError: a key that there is not, or none where one is needed; sets of a sort, or groups
            of a set, of which not as many stay; too few for a model that runs (`sparsity.fewest`,
            and one attention layer), or a number that its kernels do not take (`sparsity.unit`).
        ValueError: `kept` is not of the parts' shape.
    """
    head = any(name.startswith(_HEAD) for name in names)
    every = {parts.key: parts for parts in _all(fields, head, where)}
    masks = {key: _mask(every, key, mask, where) for key, mask in kept.items()}
    numbers = {key: _renumbered(mask) for key, mask in masks.items() if every[key].numbered}
    sizes: dict[str, int] = {}
    for size in dict.fromkeys(every[key].size for key in masks):
        of_sort = [parts for parts in every.values() if parts.size == size]
        told = [p for p in of_sort if p.key in masks or _renamed(p.key, numbers)]
        sizes[size] = _size(fields, told, masks, where)
    backbone = next(parts for parts in every.values() if parts.size == LAYERS)
    layers = masks.get(backbone.key, torch.ones(backbone.count, dtype=torch.bool)).tolist()
    _check_attention(pattern(fields, where=where), layers, where)
    found = {name: _renamed(name, numbers) for name in names}
    return Cut(
        sizes,
        layers,
        {name: new for name, new in found.items() if new is not None},
        {m.name: (m, mask) for key, mask in masks.items() for m in every[key].members},
        {
            every[key].lifted: math.sqrt(len(mask) / max(1, int(mask.sum())))
            for key, mask in masks.items()
            if every[key].lifted and not mask.all()
        },
    )


def _all(fields: Mapping[str, Any], head: bool, where: str) -> Iterator[Parts]:
    for kind in KINDS:
        yield from listed(fields, kind, head=head, attention=True, where=where)


def _mask(every: Mapping[str, Parts], key: str, mask: Tensor, where: str) -> Tensor:
    if key not in every:
        rule = f"{where}: no parts of the model are called so"
        raise InputError(f"kept: {key!r}", rule, did_you_mean(key, every))
    if mask.dtype != torch.bool or mask.shape != (every[key].count,):
        wanted = f"must be bool ({every[key].count},)"
        raise ValueError(f"kept of {key!r} is {mask.dtype} {tuple(mask.shape)}: {wanted}")
    return mask.cpu()


def _size(
    fields: Mapping[str, Any], alike: Sequence[Parts], masks: Mapping[str, Tensor], where: str
) -> int:
    """How many stay in each of a sort's sets, which is one number."""
    first = alike[0]
    rule = f"{where}: {first.size} is one number for the whole model"
    for parts in alike:
        if parts.key not in masks:
            cure = "tell of each which of it stay"
            raise InputError(f"kept: has nothing of {parts.key!r}", rule, cure)
    counts = {parts.key: int(masks[parts.key].sum()) for parts in alike}
    stay = counts[first.key]
    for parts in alike:
        if counts[parts.key] != stay:
            what = f"kept: {counts[parts.key]} of {parts.key!r} stay, and {stay} of {first.key!r}"
            raise InputError(what, rule, "keep as many of each")
        by_group = masks[parts.key].view(parts.groups, -1).sum(1).tolist()
        if len(set(by_group)) > 1:
            what = f"kept: of the groups of {parts.key!r} stay {', '.join(map(str, by_group))}"
            raise InputError(what, "must be as many of each", "rank parts within their group")
    least, step = fewest(fields, first.size), unit(fields, first.size)
    if stay != first.count and (stay < least or stay % step):
        must = f"{where}: of {first.size} = {first.count} at least {least} must stay"
        raise InputError(
            f"kept: {stay} of {first.key!r} stay", f"{must}, and a multiple of {step}", "keep more"
        )
    return stay


def _check_attention(letters: str, layers: Sequence[bool], where: str) -> None:
    """transformers' cache has the length of a text from the first attention layer."""
    attends = [stays for letter, stays in zip(letters, layers, strict=True) if letter == "*"]
    if attends and not any(attends):
        what = f"kept: none of the {len(attends)} attention layers stays"
        raise InputError(what, f"{where}: at least one must", "keep the best of them")


def _renumbered(mask: Tensor) -> list[int | None]:
    """Each part's new number; None of one that goes."""
    new = (mask.cumsum(0) - 1).tolist()
    return [number if stays else None for number, stays in zip(new, mask.tolist(), strict=True)]


def _renamed(name: str, numbers: Mapping[str, Sequence[int | None]]) -> str | None:
    words = name.split(".")
    found = list(words)
    for place in range(1, len(words)):
        of_parts = numbers.get(".".join(words[:place]))
        if of_parts is not None:
            new = of_parts[int(words[place])]
            if new is None:
                return None
            found[place] = str(new)
    return ".".join(found)
