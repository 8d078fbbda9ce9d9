"""The anchor's pull and penalty on a GPU in one pass over memory each: a Triton kernel.

gradient += strength * importance * (theta - anchor), and the sum of importance * (theta -
anchor)^2: each tensor is read once, and the gradient written once, where torch's own operators take
several kernels and pass temporaries between them. A factored importance is never whole, not even
piece by piece. Called by `regularizers.anchor`, which has the plain form for every other place, and
for tensors that `serves` refuses.
"""

import logging
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from regularizers.formats import Factored, Weight, parts

BLOCK_ELEMENTS = 4096
"""A program's share: with 8 warps 16 elements a thread, four 16-byte loads of float32 in flight. On
an H200 (bench/results/gpu.md) the pull by itself, before the penalty came into the same kernel, so
ran at 98 % of a copy's bytes a second; what it is now has not run on a GPU yet."""

_HAS_TRITON = find_spec("triton") is not None  # comes with torch's own builds for GPUs
_LOG = logging.getLogger(__name__)


def serves(theta: Tensor, anchor: Tensor, weight: Weight, *others: Tensor) -> bool:
    """Whether the kernel can be called on these: all on one GPU, of one shape, without gaps."""
    tensors = (theta, anchor, *parts(weight), *others)
    return (
        _HAS_TRITON
        and theta.is_cuda
        and theta.numel() > 0
        and all(t.device == theta.device and t.is_contiguous() for t in tensors)
        and all(t.shape == theta.shape for t in (anchor, weight, *others))
        and compiles(theta.device)
    )


@cache
def compiles(device: torch.device) -> bool:
    """Whether Triton can build and start the kernel there, tried once; if not, one warning says
    why. It wants a C compiler and Python's headers on the machine, which slim images lack."""
    one = torch.ones(1, device=device)
    try:
        weighted_square(one, one, one)
    except Exception as error:  # of Triton, of the compiler's process, of the driver
        _LOG.warning(
            "%s: EWC's kernel can't be built there, so the slower plain form is taken (install a C "
            "compiler and Python's headers): %s",
            device,
            error,
        )
        return False
    return True


def pull(gradient: Tensor, theta: Tensor, anchor: Tensor, weight: Weight, strength: float) -> None:
    """`gradient` has the pull added, computed in float32 and rounded once, to its own dtype."""
    _launch(gradient, theta, anchor, weight, strength, pulls=True)


def weighted_square(theta: Tensor, anchor: Tensor, weight: Weight) -> Tensor:
    """The sum of importance * (theta - anchor)^2, a float64 scalar on their device. A block's is
    summed in float32."""
    sums = torch.empty(_num_blocks(theta), device=theta.device)
    _launch(sums, theta, anchor, weight, 1.0, pulls=False)
    return sums.sum(dtype=torch.float64)


def _num_blocks(theta: Tensor) -> int:
    return -(-theta.numel() // BLOCK_ELEMENTS)


def _launch(
    out: Tensor, theta: Tensor, anchor: Tensor, weight: Weight, strength: float, *, pulls: bool
) -> None:
    from regularizers.fused_kernel import anchor_kernel

    num_rows, num_columns = _matrix(theta, weight)
    of_rows, *of_columns = parts(weight)
    with torch.cuda.device_of(theta):
        anchor_kernel[(_num_blocks(theta),)](
            out,
            theta,
            anchor,
            of_rows,
            of_columns[0] if of_columns else of_rows,
            strength,
            theta.numel(),
            num_rows,
            num_columns,
            PULLS=pulls,
            FACTORED=isinstance(weight, Factored),
            BLOCK=BLOCK_ELEMENTS,
            num_warps=8,
        )


def _matrix(theta: Tensor, weight: Weight) -> tuple[int, int]:
    """Rows and columns of each of the matrices that a factored weight stands for; they lie one
    after the other in memory, for what has one entry between or behind takes no place. theta may be
    a shard with a single row."""
    if not isinstance(weight, Factored):
        return 1, theta.numel()
    num_columns = [size for size in weight.columns.shape if size > 1][-1]
    return theta.numel() // weight.columns.numel(), num_columns
