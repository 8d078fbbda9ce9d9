"""The Triton kernel of `regularizers.fused`, apart from it because triton is not everywhere."""

import triton
import triton.language as tl


@triton.jit
def _read(  # type: ignore[no-untyped-def]
    theta_at,
    anchor_at,
    weight_at,  # of every element; factored, of every row
    columns_at,
    num_elements,
    num_rows,
    num_columns,
    FACTORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where this program's elements are, which of them there are, and of each theta - anchor and
    weight, float32; 0 where there is none."""
    first = tl.program_id(0).to(tl.int64) * BLOCK  # a stack of experts has more than 2^31 elements
    place = first + tl.arange(0, BLOCK)
    inside = place < num_elements
    theta = tl.load(theta_at + place, mask=inside, other=0).to(tl.float32)
    anchor = tl.load(anchor_at + place, mask=inside, other=0).to(tl.float32)
    if FACTORED:
        row = place // num_columns
        column = row // num_rows * num_columns + place % num_columns
        weight = tl.load(weight_at + row, mask=inside, other=0)
        weight *= tl.load(columns_at + column, mask=inside, other=0)
    else:
        weight = tl.load(weight_at + place, mask=inside, other=0).to(tl.float32)
    return place, inside, theta - anchor, weight


@triton.jit
def pull_kernel(  # type: ignore[no-untyped-def]
    gradient_at,
    theta_at,
    anchor_at,
    weight_at,
    columns_at,
    strength,
    num_elements,
    num_rows,
    num_columns,
    FACTORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements: gradient += strength * weight * (theta - anchor)."""
    place, inside, difference, weight = _read(
        theta_at,
        anchor_at,
        weight_at,
        columns_at,
        num_elements,
        num_rows,
        num_columns,
        FACTORED,
        BLOCK,
    )
    gradient = tl.load(gradient_at + place, mask=inside)
    pulled = gradient.to(tl.float32) + strength * weight * difference
    tl.store(gradient_at + place, pulled.to(gradient.dtype), mask=inside)


@triton.jit
def penalty_kernel(  # type: ignore[no-untyped-def]
    sums_at,
    theta_at,
    anchor_at,
    weight_at,
    columns_at,
    num_elements,
    num_rows,
    num_columns,
    FACTORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements: the sum of weight * (theta - anchor)^2."""
    _, _, difference, weight = _read(
        theta_at,
        anchor_at,
        weight_at,
        columns_at,
        num_elements,
        num_rows,
        num_columns,
        FACTORED,
        BLOCK,
    )
    tl.store(sums_at + tl.program_id(0), tl.sum(weight * difference * difference, axis=0))
