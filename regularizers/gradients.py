"""The mean over examples of some function of their gradients: the loop of every estimator.

No model, no data and no tokens are known here. Called by `fisher` and `mas`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from regularizers.finite import NotFiniteError

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
        parameters: name -> leaf; those that need no gradient are left out. Their `.grad` is left
            alone.
        batches: any number of any sizes.
        objective: batch -> (a finite scalar, its number of examples).
        accumulate: (total, float32 gradient, number of examples): adds to total in place.
        progress: called with the number of examples done.

    Raises:
        ValueError: no example, no parameter that needs a gradient, or an objective that is not a
            scalar.
        NotFiniteError: a loss that is not finite.
    """
    leaves = {name: leaf for name, leaf in parameters.items() if leaf.requires_grad}
    if not leaves:
        raise ValueError("no parameter needs a gradient: nothing can be estimated")
    total = {
        name: torch.zeros_like(leaf, dtype=torch.float32, requires_grad=False)
        for name, leaf in leaves.items()
    }
    done = 0
    for batch in batches:
        with torch.enable_grad():
            loss, size = objective(batch)
        _check(loss, size, done)
        # Leaves the .grad of every parameter alone, unlike loss.backward().
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                accumulate(total[name], gradient.detach().float(), size)
        done += size
        if progress is not None:
            progress(done)
    if not done:
        raise ValueError("no example was given: importance needs at least one")
    return {name: value.div_(done) for name, value in total.items()}


def _check(loss: Tensor, size: int, done: int) -> None:
    place = f"after {done} examples"
    if size < 1:
        raise ValueError(f"the batch {place} has {size} examples: must be at least 1")
    if loss.dim() != 0:
        raise ValueError(f"the loss {place} has shape {tuple(loss.shape)}: must be a scalar")
    if not bool(torch.isfinite(loss)):
        value = loss.detach().item()
        raise NotFiniteError(f"the loss {place} is {value}: the model diverges on that example")
