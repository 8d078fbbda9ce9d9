"""How much it would cost to set a weight to zero, by each criterion: one table.

A score is float32, of the weight's shape and at least 0; what has the lowest goes first. Scores of
one criterion can be compared over all tensors of a model unless its row says otherwise. Not what
goes (`compression.masks`) and not the estimate of a curvature (`regularizers.fisher`: the Fisher by
which EWC holds weights is the one that OBD prunes by, and nothing is computed for it again;
`regularizers.spread` for how much it differs between examples).

OBD-SD is a variation of OBD in Harang & Sanders 2023 (arXiv 2306.10177), whose definition we do not
have. `obd_sd`, `obd_spread` and `obd_scaled` are our own readings of its name, to be compared.

Shape suffixes: o outputs, i inputs of a matrix; stacks of experts have theirs before.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from regularizers.formats import Weight, whole


class Evidence(NamedTuple):
    """What is known of one weight tensor beside its values; a criterion asks for what it needs.

    `fisher`: mean squared gradient of an example's log-likelihood, of the tensor's shape, in any
    format of `regularizers.formats`. `fisher_sd`: the standard deviation over examples of the
    squared gradient that `fisher` is the mean of, of the tensor's shape. `damping`: at least 0,
    added to the curvature of each weight by the criteria that say so. `input_norms`: (.., i), the
    root of the sum over tokens of each input's square. `generator`: of random numbers.
    """

    fisher: Weight | None = None
    fisher_sd: Tensor | None = None
    damping: float = 0.0
    input_norms: Tensor | None = None
    generator: torch.Generator | None = None


class Score(Protocol):
    """(weight, evidence) -> scores."""

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor: ...


class Criterion(NamedTuple):
    """`needs`: the fields of `Evidence` without which it can't be asked. `scope`: among what its
    scores are compared by default, a key of `compression.masks.SCOPES`. `curvature`: what it takes
    for the second derivative and adds its damping to; None of those that dampen nothing."""

    score: Score
    needs: tuple[str, ...]
    scope: str
    curvature: Callable[[Evidence], Tensor] | None = None


def random(weight: Tensor, evidence: Evidence) -> Tensor:
    """Uniform in [0, 1): what any criterion has to beat."""
    shape, generator = weight.shape, evidence.generator
    device = generator.device if generator is not None else weight.device
    return torch.rand(shape, generator=generator, device=device).to(weight.device)


def magnitude(weight: Tensor, evidence: Evidence) -> Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return weight.detach().float().abs()


def obd(weight: Tensor, evidence: Evidence) -> Tensor:
    """(h + d) w^2 / 2, the rise of the loss by its diagonal quadratic approximation (LeCun, Denker
    & Solla 1989, "Optimal Brain Damage"). In the place of the second derivative h is the empirical
    Fisher, which is never negative (the diagonal Fisher of Singh & Alistarh 2020, arXiv
    2004.14340). Undamped it is EWC's penalty for the weight's removal, at strength 1.

    The damping d is `Evidence.damping`, 0 in the original. That of a curvature that is inverted is
    common (d of F + d I in Singh & Alistarh); ours is for what the approximation leaves out. It
    holds near a minimum, and far from it weights count that had no say there: a model that knows
    its examples by heart has next to no gradient on them, and many weights with a Fisher of almost
    0, of which one can go and not all. The larger d, the more the order is that of magnitude.
    """
    return _rise(weight, evidence, _mean(evidence))


OBD_SD_WEIGHT = 1.0
"""How many standard deviations `obd_sd` adds to the mean. Chosen, not measured."""


def obd_sd(weight: Tensor, evidence: Evidence) -> Tensor:
    """`obd` with h = mean g^2 + c SD g^2, g an example's gradient and c = `OBD_SD_WEIGHT`: OBD that
    shuns the risk, where a weight that matters much to few examples stays before one that matters
    alike to all. Our own definition, and our default of OBD-SD."""
    return _rise(weight, evidence, _risk(evidence))


def obd_spread(weight: Tensor, evidence: Evidence) -> Tensor:
    """`obd` with h = SD g^2, of how much examples differ alone: what all of them ask for alike
    counts for nothing. Our own definition."""
    return _rise(weight, evidence, _spread(evidence))


def obd_scaled(weight: Tensor, evidence: Evidence) -> Tensor:
    """`obd` over its standard deviation within the tensor, so that one cut through a model is not
    made by the tensors' scales. Our own definition. Of scores that are all the same the deviation
    is 0, and they are infinite, or 0 where they were. Never dampened: what is added to all tensors
    alike is much in those with little curvature, whose scores it would make the highest."""
    found = obd(weight, evidence._replace(damping=0.0))
    if found.numel() == 0:
        return found
    # Over the largest first: the square of a small score is none that float32 has.
    found /= found.amax().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(found > 0, found / found.std(correction=0), found)


def wanda(weight: Tensor, evidence: Evidence) -> Tensor:
    """|w_oi| ||x_i||, an output's weights among themselves (Sun et al. 2023, arXiv 2306.11695, eq.
    1)."""
    assert evidence.input_norms is not None
    return weight.detach().float().abs().mul_(evidence.input_norms.float().unsqueeze(-2))


def _rise(weight: Tensor, evidence: Evidence, curvature: Tensor) -> Tensor:
    dampened = curvature + evidence.damping
    return dampened.mul_(weight.detach().float().square()).mul_(0.5)


def _mean(evidence: Evidence) -> Tensor:
    assert evidence.fisher is not None
    return whole(evidence.fisher).float()


def _spread(evidence: Evidence) -> Tensor:
    assert evidence.fisher_sd is not None
    return evidence.fisher_sd.float()


def _risk(evidence: Evidence) -> Tensor:
    return _spread(evidence).mul(OBD_SD_WEIGHT).add_(_mean(evidence))


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "random": Criterion(random, ("generator",), "model"),
        "magnitude": Criterion(magnitude, (), "model"),
        "obd": Criterion(obd, ("fisher",), "model", _mean),
        "obd_sd": Criterion(obd_sd, ("fisher", "fisher_sd"), "model", _risk),
        "obd_spread": Criterion(obd_spread, ("fisher_sd",), "model", _spread),
        "obd_scaled": Criterion(obd_scaled, ("fisher",), "model"),
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
        ("fisher_sd", evidence.fisher_sd, (whole_shape,)),
        ("input_norms", evidence.input_norms, of_inputs),
    ):
        if given is not None and given.shape not in wanted:
            shapes = f"{tuple(given.shape)}, the weight {tuple(whole_shape)}"
            raise ValueError(f"{what} of {name!r} has shape {shapes}")
