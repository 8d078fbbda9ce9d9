"""Holds weights where they were: strength/2 * sum_i importance_i (theta_i - anchor_i)^2.

EWC (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3) is this with a Fisher as importance; plain
L2 with ones. The gradient strength * importance * (theta - anchor) is added to `.grad` by hand,
once per optimizer step (after accumulation and unscaling, before clipping): no graph, one pass
over memory, and the shards of a DTensor each by themselves. Does not estimate importance.

`updater.train.memory` makes it of what is held; the trainer calls `add_gradient` and `penalty`.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from regularizers import fused
from regularizers.finite import check_weight
from regularizers.formats import Factored, Weight, mapped, parts, whole
from regularizers.shards import local, over_shards, sharded_like, weight_sharded_like

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**25}
"""Elements differenced at a time, so that no temporary is as large as a model: 4 MB of float32 on
the CPU (of 2^15 .. 2^21 none was faster on 18 M weights with 2 threads, and the whole at once half
as fast), 128 MB on a GPU, where each chunk costs two kernel launches."""


class Regularizer(Protocol):
    """What the trainer asks of any of them. `parameters` is name -> live parameter."""

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor: ...

    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None: ...


class NoAnchor:
    """Nothing is held: the null object."""

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Always 0."""
        return torch.zeros(())

    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """No gradient is touched."""


class QuadraticAnchor:
    """strength/2 * sum_i importance_i (theta_i - anchor_i)^2, in float32 whatever theta is.

    Args:
        anchor: name -> the weights to hold on to; copied now, so live parameters may be given.
            Whole tensors, or DTensors sharded as the parameters are. May stay on another device
            than the parameters, at the price of a copy per step. Float32 ones that lose no digit
            by it, as those of a checkpoint released in bfloat16, are kept in bfloat16.
        importance: name -> finite non-negative weights of the same shape, in any format of
            `regularizers.formats`; kept, not copied. An anchored name that is not in it is not
            held. None: ones.
        strength: finite, at least 0.

    Raises:
        ValueError: a bad strength, an importance that is negative, of another shape than its
            anchor, or without one.
        NotFiniteError: an importance that is not finite.
    """

    def __init__(
        self,
        anchor: Mapping[str, Tensor],
        importance: Mapping[str, Weight] | None,
        strength: float,
    ) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"strength is {strength}: must be finite and at least 0")
        self.strength = strength
        self._importance: dict[str, Weight] | None = None
        if importance is not None:
            _check(anchor, importance)
            self._importance = {name: _detached(weight) for name, weight in importance.items()}
            anchor = {name: anchor[name] for name in importance}
        self._anchor = {name: _snapshot(tensor) for name, tensor in anchor.items()}
        self._shapes = {name: tensor.shape for name, tensor in self._anchor.items()}
        self._settled: set[str] = set()

    @torch.no_grad()
    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The value, a float32 scalar without a graph, for the log.

        Summed in float64. On DTensors a collective: every rank must ask, and gets the same.

        Raises:
            ValueError: a held parameter is missing or has another shape.
        """
        total = torch.zeros((), dtype=torch.float64)
        for name, theta in self._held(parameters):
            # Added up where it is: each value that is read waits for a GPU.
            total = total.to(theta.device) + self.penalty_of(name, theta)
        return total.float().cpu()

    @torch.no_grad()
    def penalty_of(self, name: str, theta: Tensor) -> Tensor:
        """What one held parameter has in the penalty, float64, on its device."""
        term = self.term(name, theta)
        if fused.serves(*term):
            value = fused.weighted_square(*term)
        else:
            value = torch.zeros((), dtype=torch.float64, device=theta.device)
            for chunk, anchor, weight in chunks(*term):
                difference = chunk.float() - anchor
                value += (difference.square_() * whole(weight)).sum(dtype=torch.float64)
        return self.strength / 2 * over_shards(value, theta)

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """strength * importance * (theta - anchor) is added in place to `.grad` of each.

        Call it once per optimizer step. A parameter without `.grad` gets one; one that needs no
        gradient (frozen) is left alone.

        Raises:
            ValueError: a held parameter is missing or has another shape.
        """
        for name, theta in self._held(parameters):
            if not theta.requires_grad or self.strength == 0:
                continue
            if theta.grad is None:
                theta.grad = torch.zeros_like(theta)
            gradient, term = local(theta.grad), self.term(name, theta)
            if fused.serves(*term, gradient):
                fused.pull(gradient, *term, self.strength)
                continue
            for grad, chunk, anchor, weight in chunks(gradient, *term):
                grad.addcmul_(chunk.float() - anchor, whole(weight), value=self.strength)

    def _held(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, shape in self._shapes.items():
            if name not in parameters:
                raise ValueError(f"parameter {name!r} is anchored but the model has none such")
            theta = parameters[name]
            if theta.shape != shape:
                shapes = f"{tuple(theta.shape)}, its anchor {tuple(shape)}"
                raise ValueError(f"parameter {name!r} has shape {shapes}")
            yield name, theta

    @property
    def names(self) -> Collection[str]:
        """Of the parameters that are held."""
        return self._anchor.keys()

    def share(self, frozen: Mapping[str, Tensor]) -> frozenset[str]:
        """Every anchor that equals its frozen weight uses that weight's memory from now on, and
        lets go of its own. Returns the names of those. Of shards a collective: every rank must ask,
        and gets the same.

        Raises:
            ValueError: a held parameter is missing or has another shape.
        """
        same = []
        for name, theta in self._held(frozen):
            here, mine, _ = self.term(name, theta)
            exact = torch.promote_types(mine.dtype, theta.dtype) == theta.dtype
            differs = not (exact and torch.equal(mine.to(here), here))
            if not over_shards(torch.tensor(int(differs), device=here.device), theta):
                self._anchor[name] = theta.detach()
                same.append(name)
        return frozenset(same)

    def settle(self, parameters: Mapping[str, Tensor], *, offload: bool = False) -> None:
        """Every anchor and importance is cut as its parameter is and stays where that is, from now
        on and not only when it is first asked for: what was whole may be let go of.

        Args:
            offload: they stay in the host's memory instead, pinned where there is a GPU, and each
                step copies one piece after the other.

        Raises:
            ValueError: a held parameter is missing or has another shape.
        """
        for name, theta in self._held(parameters):
            here, anchor, weight = self.term(name, theta)
            place = _pinned if offload else partial(_on, device=here.device)
            self._anchor[name] = place(anchor)
            if self._importance is not None:
                self._importance[name] = mapped(place, weight)
            self._settled.add(name)

    def term(self, name: str, theta: Tensor) -> tuple[Tensor, Tensor, Weight]:
        """This rank's part of theta, anchor and importance, all of one shape."""
        if name not in self._settled:
            self._anchor[name] = sharded_like(theta, self._anchor[name])
            if self._importance is not None:
                self._importance[name] = weight_sharded_like(theta, self._importance[name])
        anchor = local(self._anchor[name])
        if self._importance is None:
            return local(theta), anchor, torch.ones((), device=anchor.device).expand(anchor.shape)
        return local(theta), anchor, mapped(local, self._importance[name])


def _check(anchor: Mapping[str, Tensor], importance: Mapping[str, Weight]) -> None:
    for name, weight in importance.items():
        if name not in anchor:
            raise ValueError(f"importance of {name!r} has no anchor")
        if weight.shape != anchor[name].shape:
            shapes = f"{tuple(weight.shape)}, its anchor {tuple(anchor[name].shape)}"
            raise ValueError(f"importance of {name!r} has shape {shapes}")
        for part in map(local, parts(weight)):
            check_weight(name, part)


def _snapshot(tensor: Tensor) -> Tensor:
    """Where the weights were, to the last bit, in the smaller dtype of two that can say it."""
    tensor = tensor.detach()
    if tensor.dtype == torch.float32:
        short = tensor.bfloat16()
        if torch.equal(local(short).float(), local(tensor)):
            return short
    return tensor.clone()


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)


def _pinned(tensor: Tensor) -> Tensor:
    """In the host's memory, from where a GPU takes it without a copy in between; one number that
    is expanded stays one number."""
    if tensor.numel() and not any(tensor.stride()):
        return tensor[(0,) * tensor.dim()].cpu().expand(tensor.shape)
    tensor = tensor.cpu()
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def _detached(weight: Weight) -> Weight:
    """float32 unless it is kept in a smaller format of `regularizers.formats`."""
    if isinstance(weight, Factored):
        return weight
    return weight.detach() if weight.dtype == torch.bfloat16 else weight.detach().float()


def chunks(first: Tensor, *others: Any) -> Iterator[tuple[Any, ...]]:
    """Views of the tensors and weights cut alike along dimension 0, on the first one's device.

    Cut into rows, not flattened: a tensor need not be contiguous. All but the first may be moved.
    """
    tensors = (first, *others)
    if first.numel() == 0:
        return
    most = CHUNK_ELEMENTS.get(first.device.type, CHUNK_ELEMENTS["cuda"])
    if first.numel() <= most:
        pieces: Iterable[tuple[Any, ...]] = [tensors]
    else:
        rows = max(1, most * first.shape[0] // first.numel())
        pieces = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    for cut in pieces:
        yield tuple(part.to(first.device, non_blocking=True) for part in cut)
