"""The anchor's pull on a GPU in one pass over memory: a Triton kernel.

gradient += strength * importance * (theta - anchor), each tensor read once and the gradient written
once; torch's own operators take two kernels and pass a temporary between them. A factored
importance is never whole, not even piece by piece. Called by `regularizers.anchor`, which has the
plain form for every other place, and for tensors that `serves` refuses.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from regularizers.formats import Factored, Weight, parts

BLOCK_ELEMENTS = 4096
"""A program's share: with 8 warps 16 elements a thread, four 16-byte loads of float32 in flight."""

_HAS_TRITON = find_spec("triton") is not None  # comes with torch's own builds for GPUs


def serves(gradient: Tensor, theta: Tensor, anchor: Tensor, weight: Weight) -> bool:
    """Whether `pull` can be called on these: all on one GPU, of one shape, without gaps."""
    tensors = (gradient, theta, anchor, *parts(weight))
    return (
        _HAS_TRITON
        and theta.is_cuda
        and theta.numel() > 0
        and all(t.device == theta.device and t.is_contiguous() for t in tensors)
        and anchor.shape == weight.shape == gradient.shape == theta.shape
    )


def pull(gradient: Tensor, theta: Tensor, anchor: Tensor, weight: Weight, strength: float) -> None:
    """`gradient` has the pull added, computed in float32 and rounded once, to its own dtype."""
    from regularizers.fused_kernel import pull_kernel

    num_rows, num_columns = _matrix(theta, weight)
    of_rows, *of_columns = parts(weight)
    with torch.cuda.device(theta.device):
        pull_kernel[(-(-theta.numel() // BLOCK_ELEMENTS),)](
            gradient,
            theta,
            anchor,
            of_rows,
            of_columns[0] if of_columns else of_rows,
            strength,
            theta.numel(),
            num_rows,
            num_columns,
            FACTORED=isinstance(weight, Factored),
            BLOCK=BLOCK_ELEMENTS,
            num_warps=8,
        )


def _matrix(theta: Tensor, weight: Weight) -> tuple[int, int]:
    """Rows and columns of each of the matrices that a factored weight stands for; they lie one
    after the other in memory, for what has one entry between or behind takes no place."""
    if not isinstance(weight, Factored):
        return 1, theta.numel()
    long = [size for size in theta.shape if size > 1]
    return long[-2], long[-1]
