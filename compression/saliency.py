"""How much it would cost to set a weight to zero, by each criterion: one table.

A score is float32, of the weight's shape and at least 0; what has the lowest goes first. Scores of
one criterion can be compared over all tensors of a model unless its row says otherwise. Not what
goes (`compression.masks`) and not the estimate of a curvature (`regularizers.fisher`: the Fisher by
which EWC holds weights is the one that OBD prunes by, and nothing is computed for it again).

Shape suffixes: o outputs, i inputs of a matrix; stacks of experts have theirs before.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from regularizers.formats import Weight, whole


class Evidence(NamedTuple):
    """What is known of one weight tensor beside its values; a criterion asks for what it needs.

    `fisher`: mean squared gradient of an example's log-likelihood, of the tensor's shape, in any
    format of `regularizers.formats`. `input_norms`: (.., i), the root of the sum over tokens of
    each input's square. `generator`: of random numbers.
    """

    fisher: Weight | None = None
    input_norms: Tensor | None = None
    generator: torch.Generator | None = None


class Score(Protocol):
    """(weight, evidence) -> scores."""

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor: ...


class Criterion(NamedTuple):
    """`needs`: the fields of `Evidence` without which it can't be asked. `scope`: among what its
    scores are compared by default, a key of `compression.masks.SCOPES`."""

    score: Score
    needs: tuple[str, ...]
    scope: str


def random(weight: Tensor, evidence: Evidence) -> Tensor:
    """Uniform in [0, 1): what any criterion has to beat."""
    shape, generator = weight.shape, evidence.generator
    device = generator.device if generator is not None else weight.device
    return torch.rand(shape, generator=generator, device=device).to(weight.device)


def magnitude(weight: Tensor, evidence: Evidence) -> Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return weight.detach().float().abs()


def obd(weight: Tensor, evidence: Evidence) -> Tensor:
    """h w^2 / 2, the rise of the loss by its diagonal quadratic approximation (LeCun, Denker &
    Solla 1989, "Optimal Brain Damage"). In the place of the second derivative h is the empirical
    Fisher, which is never negative (the diagonal Fisher of Singh & Alistarh 2020, arXiv
    2004.14340). It is EWC's penalty for the weight's removal, at strength 1."""
    assert evidence.fisher is not None
    return weight.detach().float().square().mul_(whole(evidence.fisher)).mul_(0.5)


def wanda(weight: Tensor, evidence: Evidence) -> Tensor:
    """|w_oi| ||x_i||, an output's weights among themselves (Sun et al. 2023, arXiv 2306.11695, eq.
    1)."""
    assert evidence.input_norms is not None
    return weight.detach().float().abs().mul_(evidence.input_norms.float().unsqueeze(-2))


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "random": Criterion(random, ("generator",), "model"),
        "magnitude": Criterion(magnitude, (), "model"),
        "obd": Criterion(obd, ("fisher",), "model"),
        "wanda": Criterion(wanda, ("input_norms",), "row"),
    }
)


def score(criterion: str, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
    """The weight's scores by the criterion of that name.

    Args:
        name: of the weight, for messages.

    Raises:
        ValueError: no such criterion; it needs what there is no evidence of; the evidence is of
            another shape; or a score is negative or no number.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}: must be one of {', '.join(CRITERIA)}")
    missing = [n for n in CRITERIA[criterion].needs if getattr(evidence, n) is None]
    if missing:
        raise ValueError(f"{criterion} of {name!r} needs {', '.join(missing)}, which is not given")
    _check_shapes(name, weight, evidence)
    found = CRITERIA[criterion].score(weight, evidence)
    if not bool((found >= 0).all()):  # also where one is no number
        raise ValueError(f"a score of {name!r} by {criterion} is negative or no number")
    return found


def _check_shapes(name: str, weight: Tensor, evidence: Evidence) -> None:
    whole_shape = weight.shape
    of_inputs = (whole_shape[-1:], whole_shape[:-2] + whole_shape[-1:])
    for what, given, wanted in (
        ("fisher", evidence.fisher, (whole_shape,)),
        ("input_norms", evidence.input_norms, of_inputs),
    ):
        if given is not None and given.shape not in wanted:
            shapes = f"{tuple(given.shape)}, the weight {tuple(whole_shape)}"
            raise ValueError(f"{what} of {name!r} has shape {shapes}")
