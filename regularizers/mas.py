"""Memory aware synapses: how much each weight changes what the model says, right or wrong.

Aljundi et al. 2018, arXiv 1711.09601. Needs no labels. Knows neither the model nor the data: the
caller's function turns an example into the squared norm of its output.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from regularizers.gradients import Progress, mean_over

T = TypeVar("T")


def output_sensitivity(
    parameters: Mapping[str, Tensor],
    examples: Iterable[T],
    squared_norm: Callable[[T], Tensor],
    *,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The mean over examples of |d ||F(x)||_2^2 / d theta| of one example (section 4.1, eq. 3).

    The absolute value is taken of each example's own gradient, as the paper writes; its published
    code takes that of a batch's, which is smaller where examples disagree.

    Args, Returns, Raises: as `fisher.empirical`, with ||F(x)||^2 in the place of the loss.
    """
    one = ((example, 1) for example in examples)
    return mean_over(
        parameters,
        one,
        lambda it: (squared_norm(it[0]), 1),
        lambda total, gradient, _: total.add_(gradient.abs()),
        progress=progress,
    )
