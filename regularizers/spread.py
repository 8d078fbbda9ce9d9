"""How much the squared gradient differs between examples: its mean and its standard deviation.

The mean is the diagonal empirical Fisher (`fisher.empirical`), had in the same pass. The deviation
is what our OBD-SD criteria prune by (`compression.saliency`). No model, no data and no tokens are
known here.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from regularizers.gradients import Progress, each, zeros
from regularizers.shards import local

T = TypeVar("T")


class Moments(NamedTuple):
    """Of one parameter's squared gradient over examples, float32, of its shape: the mean, and the
    standard deviation with the number of examples N (not N - 1) below, which of one example is 0.
    """

    mean: Tensor
    sd: Tensor


def empirical_spread(
    parameters: Mapping[str, Tensor],
    examples: Iterable[T],
    negative_log_likelihood: Callable[[T], Tensor],
    *,
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """The moments of h = g^2 over examples, g the gradient of log p(y|x) of one example.

    One pass, by Welford's update (Welford 1962, "Note on a method for calculating corrected sums of
    squares and products"; of several values at once Chan, Golub & LeVeque 1983): no difference of
    two large sums. What is kept is not the sum of squared deviations but its root, updated by
    hypot, so that h^2 = g^4 is never formed: float32 has no g^4 of a g below 1e-10. The range is
    that of h itself, as the Fisher's: g from about 1e-19 to 1e19. Two tensors of each parameter's
    size are held.

    An example that a parameter plays no part in has h = 0, and counts.

    Args, Raises: as `fisher.empirical`.
    """
    mean, root = zeros(parameters), zeros(parameters)
    seen: dict[str, int] = defaultdict(int)
    done = 0

    def add(name: str, value: Tensor, count: int) -> None:
        _add(local(mean[name]), local(root[name]), seen[name], value, count)
        seen[name] += count

    def catch_up(name: str) -> None:
        if seen[name] < done:
            add(name, torch.zeros((), device=mean[name].device), done - seen[name])

    def take(name: str, gradient: Tensor, _: int) -> None:
        catch_up(name)
        add(name, gradient.square_(), 1)

    def reach(num_done: int) -> None:
        nonlocal done
        done = num_done
        if progress is not None:
            progress(num_done)

    one = ((example, 1) for example in examples)
    each(parameters, one, lambda it: (negative_log_likelihood(it[0]), 1), take, progress=reach)
    for name in mean:
        catch_up(name)
    return {name: Moments(mean[name], root[name].div_(math.sqrt(done))) for name in mean}


def _add(mean: Tensor, root: Tensor, before: int, value: Tensor, count: int) -> None:
    """To `before` values comes one of them, `count` times. `root`: of the sum of the squared
    deviations from the mean."""
    together = before + count
    difference = value - mean
    mean.add_(difference, alpha=count / together)
    torch.hypot(root, difference.mul_(math.sqrt(before * count / together)), out=root)
