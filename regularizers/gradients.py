"""The gradients of examples, and the mean over them of some function: the loop of every estimator.

No model, no data and no tokens are known here. Called by `fisher`, `mas` and `spread`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from regularizers.finite import NotFiniteError
from regularizers.shards import is_shard, local

T = TypeVar("T")
Progress = Callable[[int], None]


def mean_over(
    parameters: Mapping[str, Tensor],
    batches: Iterable[T],
    objective: Callable[[T], tuple[Tensor, int]],
    accumulate: Callable[[Tensor, Tensor, int], object],
    *,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """name -> what was accumulated, divided by the number of examples; float32.

    Args:
        accumulate: (total, float32 gradient, number of examples): adds to total in place.

    Other Args and Raises: as `each`.
    """
    total = zeros(parameters)
    done = each(
        parameters,
        batches,
        objective,
        lambda name, gradient, size: accumulate(local(total[name]), gradient, size),
        progress=progress,
    )
    return {name: value.div_(done) for name, value in total.items()}


def zeros(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """name -> float32 zeros, of each parameter that needs a gradient."""
    return {
        name: torch.zeros_like(leaf, dtype=torch.float32, requires_grad=False)
        for name, leaf in parameters.items()
        if leaf.requires_grad
    }


def each(
    parameters: Mapping[str, Tensor],
    batches: Iterable[T],
    objective: Callable[[T], tuple[Tensor, int]],
    take: Callable[[str, Tensor, int], object],
    *,
    progress: Progress | None,
) -> int:
    """Hands over the gradients of every batch's objective; returns the number of examples.

    A gradient is handed over as soon as it is there, and then gone: beside what is made of them
    there is memory for one, not for all.

    Args:
        parameters: name -> leaf; those that need no gradient are left out. Their `.grad` is left
            alone. Of DTensors each rank is handed its part; all must then be given the same
            batches, and so must whoever sums gradients over ranks take their mean.
        batches: any number of any sizes.
        objective: batch -> (a finite scalar, its number of examples).
        take: (name, float32 gradient, the batch's number of examples); may use the gradient's
            memory. Not called for a parameter that the objective does not depend on.
        progress: called with the number of examples done.

    Raises:
        ValueError: no example, no parameter that needs a gradient, or an objective that is not a
            scalar.
        NotFiniteError: a loss that is not finite.
    """
    leaves = {name: leaf for name, leaf in parameters.items() if leaf.requires_grad}
    if not leaves:
        raise ValueError("no parameter needs a gradient: nothing can be estimated")
    done = size = 0
    # Of shards the leaves of the graph are others, and their gradients are all computed.
    asked = None if any(map(is_shard, leaves.values())) else list(leaves.values())

    def take_local(name: str, gradient: Tensor) -> None:
        take(name, local(gradient).detach().float(), size)

    with _handed_over(leaves, take_local):
        for batch in batches:
            with torch.enable_grad():
                loss, size = objective(batch)
            _check(loss, size, done)
            loss.backward(inputs=asked)
            done += size
            if progress is not None:
                progress(done)
    if not done:
        raise ValueError("no example was given: importance needs at least one")
    return done


@contextmanager
def _handed_over(
    leaves: Mapping[str, Tensor], take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """In the block each leaf's gradient is handed over when it is complete, and not kept; what
    stood in `.grad` before stands there again after it."""

    def hand_over(name: str, leaf: Tensor) -> None:
        assert leaf.grad is not None
        gradient, leaf.grad = leaf.grad, None
        take(name, gradient)

    before = {name: leaf.grad for name, leaf in leaves.items()}
    handles = []
    for name, leaf in leaves.items():
        leaf.grad = None
        handles.append(leaf.register_post_accumulate_grad_hook(partial(hand_over, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, leaf in leaves.items():
            leaf.grad = before[name]


def _check(loss: Tensor, size: int, done: int) -> None:
    place = f"after {done} examples"
    if size < 1:
        raise ValueError(f"the batch {place} has {size} examples: must be at least 1")
    if loss.dim() != 0:
        raise ValueError(f"the loss {place} has shape {tuple(loss.shape)}: must be a scalar")
    if not bool(torch.isfinite(loss)):
        value = loss.detach().item()
        raise NotFiniteError(f"the loss {place} is {value}: the model diverges on that example")
