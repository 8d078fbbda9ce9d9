"""Estimates the diagonal of the Fisher information: how much each weight matters for the past.

F_i = E_x E_y[(d log p(y|x) / d theta_i)^2]. Both estimators give the mean over examples, whatever
the batch size, so that the strength of EWC has one meaning. Squaring a mini-batch's mean gradient
without more is neither: it shrinks with the batch size. Diagonal only; no model, no data and no
tokens are known here: the caller's function turns an example into a loss.

    F = ESTIMATORS["empirical"](dict(model.named_parameters()), examples, negative_log_likelihood)
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Progress = Callable[[int], None]


def empirical(
    parameters: Mapping[str, Tensor],
    examples: Iterable[T],
    negative_log_likelihood: Callable[[T], Tensor],
    *,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of log p(y|x) of one example.

    The empirical Fisher: y is the true label (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3,
    where F is estimated so in practice). One backward pass per example.

    Args:
        parameters: name -> leaf; those that need no gradient are left out of the result.
        examples: one at a time; each counts the same.
        negative_log_likelihood: example -> scalar, in nats, of the whole completion (the sum over
            its tokens). Runs the model in whatever mode the caller has put it.
        progress: called with the number of examples done.

    Returns:
        name -> float32, of the parameter's shape and on its device.

    Raises:
        ValueError: no example, no parameter that needs a gradient, or a loss that is not a finite
            scalar.
    """
    one = ((example, 1) for example in examples)
    return _mean_square(parameters, one, lambda it: (negative_log_likelihood(it[0]), 1), progress)


def sampled(
    parameters: Mapping[str, Tensor],
    batches: Iterable[T],
    sampled_loss: Callable[[T], tuple[Tensor, int]],
    *,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The mean over batches, weighted by their size B, of B times the squared mean gradient.

    With labels drawn from the model itself an example's gradient has mean 0, so the cross terms
    between examples vanish in expectation, and this is an unbiased estimate of the true Fisher
    (Gauss-Newton-Bartlett; Liu et al. 2023, arXiv 2305.14342, section 2.3). One backward pass per
    batch; noisier than one label per example and pass.

    Args:
        parameters: as in `empirical`.
        batches: any number of any sizes.
        sampled_loss: batch -> (loss, B), where the loss is the mean over the batch's B examples of
            the negative log-likelihood (the sum over an example's tokens, as in `empirical`) of
            labels that the function has just drawn from the model's own predictions.
        progress: called with the number of examples done.

    Returns:
        As `empirical`.

    Raises:
        ValueError: no example, no parameter that needs a gradient, or a loss that is not a finite
            scalar.
    """
    return _mean_square(parameters, batches, sampled_loss, progress)


ESTIMATORS: Mapping[str, Callable[..., dict[str, Tensor]]] = MappingProxyType(
    {"empirical": empirical, "sampled": sampled}
)


def _mean_square(
    parameters: Mapping[str, Tensor],
    batches: Iterable[Any],
    mean_loss: Callable[[Any], tuple[Tensor, int]],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """sum_b B_b * (B_b * gradient_b^2) / sum_b B_b, in float32."""
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
            loss, size = mean_loss(batch)
        _check(loss, size, done)
        # Leaves the .grad of every parameter alone, unlike loss.backward().
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                square = gradient.detach().float()
                total[name].addcmul_(square, square, value=size**2)
        done += size
        if progress is not None:
            progress(done)
    if not done:
        raise ValueError("no example was given: importance needs at least one")
    return {name: square.div_(done) for name, square in total.items()}


def _check(loss: Tensor, size: int, done: int) -> None:
    place = f"after {done} examples"
    if size < 1:
        raise ValueError(f"the batch {place} has {size} examples: must be at least 1")
    if loss.dim() != 0:
        raise ValueError(f"the loss {place} has shape {tuple(loss.shape)}: must be a scalar")
    if not bool(torch.isfinite(loss)):
        value = loss.detach().item()
        raise ValueError(f"the loss {place} is {value}: the model diverges on that example")
