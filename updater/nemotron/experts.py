"""Experts that saw no token stay where they are, and how many tokens each expert saw.

AdamW moves a weight whose gradient is zero: by what is left of its momentum, and by weight decay
(0.0068 a step at learning rate 0.01, measured). For an expert that no token of a step was routed
to, that is drift without evidence. transformers stacks a layer's experts in one tensor, so the
optimizer cannot be told by leaving a gradient out; the idle slices are put back after the step
instead. Called by `updater.train.learner` and `updater.train.importance`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHModel,
    NemotronHTopkRouter,
)

from regularizers.shards import local
from updater.nemotron.weights import is_experts

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # torch.optim.AdamW's, per weight

KEPT_BYTES = 2**28
"""What is kept of idle experts at a time, unless one tensor's are more. Nearly all experts of all
layers may be idle where texts are short: kept at once they would be three quarters of the weights
and both moments of a large model. Chosen: no second turn in small models."""

_ByExpert = Callable[[torch.Tensor], torch.Tensor]


class IdleExperts:
    """Holds idle experts through one optimizer step: `find`, `silence`, `step`.

    An expert is idle when its slice of the gradient is exactly zero: then no token that the loss
    depends on was routed to it (or its output could not change the loss, and it stays too). Under
    LoRA the slices are those of either factor, each for itself: while B is still zero no expert's
    A has a gradient, and it waits a step. Of a model in shards each process sees to its own
    experts.

    Args:
        parameters: those that are trained, by name.
        lora_rank: of the factors among them, if there are any.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, lora_rank: int = 0) -> None:
        found = ((p, _by_expert(name, lora_rank)) for name, p in parameters.items())
        self._experts = [(p, by_expert) for p, by_expert in found if by_expert is not None]
        self._idle: list[_Idle] = []

    @torch.no_grad()
    def find(self) -> None:
        """Which experts are idle is known. Call it when the loss's gradient is complete, before
        anything else is added to it."""
        self._idle = []
        reached = [
            (parameter, by_expert, by_expert(local(gradient)).flatten(1).any(1))
            for parameter, by_expert in self._experts
            if (gradient := parameter.grad) is not None
        ]
        if not reached:
            return
        # All flags are read at once: on a GPU each read waits for everything before it.
        used = [flag for *_, flag in reached]
        flags = torch.cat(used).cpu().split([len(flag) for flag in used])
        for (parameter, by_expert, _), flag in zip(reached, flags, strict=True):
            if not bool(flag.all()):
                idle = (~flag).nonzero()[:, 0].to(parameter.device)
                self._idle.append(_Idle(parameter, by_expert, idle))

    @torch.no_grad()
    def silence(self) -> None:
        """Idle experts have no gradient again, whatever was added since `find`, so that they do
        not count in the gradient's norm."""
        for one in self._idle:
            assert one.parameter.grad is not None
            one.by_expert(local(one.parameter.grad))[one.idle] = 0

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> None:
        """`step` is the optimizer's, over all parameters that have a gradient. After it idle
        experts and their optimizer state are bit for bit what they were before, and gradients too.

        What the step overwrites of them is kept meanwhile. Where that is more than `KEPT_BYTES`,
        the step is taken in turns, each of some stacks of experts, which come to the same weights:
        AdamW sees to each parameter by itself.
        """
        turns, self._idle = self._turns(optimizer), []
        if len(turns) == 1:
            _put_back_after(step, optimizer, turns[0])
            return
        gradients = [(p, p.grad) for group in optimizer.param_groups for p in group["params"]]
        later = {id(one.parameter) for turn in turns[1:] for one in turn}
        try:
            for number, turn in enumerate(turns):
                now = {id(one.parameter) for one in turn}
                for parameter, gradient in gradients:
                    first = number == 0 and id(parameter) not in later
                    steps = first or id(parameter) in now
                    parameter.grad = gradient if steps else None  # None: AdamW passes it over
                _put_back_after(step, optimizer, turn)
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient

    def _turns(self, optimizer: torch.optim.Optimizer) -> "list[list[_Idle]]":
        """The idle ones, in as few turns as have room; of the first are all other parameters."""
        turns: list[list[_Idle]] = [[]]
        room = KEPT_BYTES
        for one in self._idle:
            size = one.num_bytes(optimizer)
            if size > room and turns[-1]:
                turns.append([])
                room = KEPT_BYTES
            turns[-1].append(one)
            room -= size
        return turns


@dataclass(frozen=True, eq=False)
class _Idle:
    """Which experts of a stack are idle."""

    parameter: nn.Parameter
    by_expert: _ByExpert
    idle: torch.Tensor

    def stepped(self, optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
        """What a step overwrites, with the experts first."""
        state = optimizer.state.get(self.parameter, {})
        for tensor in (self.parameter, *(state[key] for key in _MOMENTS if key in state)):
            yield self.by_expert(local(tensor))

    def num_bytes(self, optimizer: torch.optim.Optimizer) -> int:
        """Of the idle ones in all of that."""
        return sum(
            len(self.idle) * tensor[:1].numel() * tensor.element_size()
            for tensor in self.stepped(optimizer)
        )


def _put_back_after(
    step: Callable[[], object], optimizer: torch.optim.Optimizer, turn: list[_Idle]
) -> None:
    kept = [
        (slices, one.idle, slices[one.idle]) for one in turn for slices in one.stepped(optimizer)
    ]
    step()
    for slices, idle, values in kept:
        slices[idle] = values


def _by_expert(name: str, lora_rank: int) -> _ByExpert | None:
    """How a parameter, or a tensor laid out like it, is viewed with the experts first; None: it is
    no routed experts'. peft stacks A's rows by expert, and B's columns with the expert fastest."""
    if is_experts(name):
        return lambda tensor: tensor
    if ".mixer.experts." not in name:
        return None
    if ".lora_A." in name:
        return lambda tensor: tensor.view(-1, lora_rank, tensor.shape[-1])
    return lambda tensor: tensor.view(len(tensor), lora_rank, -1).permute(2, 0, 1)


@contextmanager
def routed_tokens(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Hands out {mixer's name: tokens routed to each expert, int64}, filled by every forward pass
    in the block. Padding counts as tokens: use batches without any. What gradient checkpointing
    computes again does not count."""
    (trunk,) = (module for module in model.modules() if isinstance(module, NemotronHModel))
    counts: dict[str, torch.Tensor] = {}
    forward = _Forward()
    handles = [
        trunk.register_forward_pre_hook(forward.begins),
        trunk.register_forward_hook(forward.ends, always_call=True),
    ]
    for name, module in model.named_modules():
        if isinstance(module, NemotronHTopkRouter):
            mixer = name.removesuffix(".gate")
            counts[mixer] = torch.zeros(module.num_experts, dtype=torch.int64)
            handles.append(module.register_forward_hook(_counter(counts[mixer], forward)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class _Forward:
    """Whether the model is in its forward pass, and not on the way back."""

    is_on = False

    def begins(self, *_: object) -> None:
        self.is_on = True

    def ends(self, *_: object) -> None:
        self.is_on = False


def _counter(counts: torch.Tensor, forward: _Forward) -> Callable[..., None]:
    def count(_module: nn.Module, _inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        if forward.is_on:
            counts.add_(torch.bincount(output[2].flatten(), minlength=len(counts)).cpu())

    return count
