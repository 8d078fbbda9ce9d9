"""The Triton kernel of `regularizers.fused`, apart from it because triton is not everywhere."""

import triton
import triton.language as tl


@triton.jit
def anchor_kernel(  # type: ignore[no-untyped-def]
    out_at,
    theta_at,
    anchor_at,
    weight_at,  # of every element; factored, of every row
    columns_at,
    strength,
    num_elements,
    num_rows,
    num_columns,
    PULLS: tl.constexpr,
    FACTORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements. PULLS: out, the gradient, += strength * weight * (theta - anchor).
    Else out of the block's number is strength * the sum of weight * (theta - anchor)^2."""
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
    pull = strength * weight * (theta - anchor)
    if PULLS:
        gradient = tl.load(out_at + place, mask=inside)
        pulled = gradient.to(tl.float32) + pull
        tl.store(out_at + place, pulled.to(gradient.dtype), mask=inside)
    else:
        tl.store(out_at + tl.program_id(0), tl.sum(pull * (theta - anchor), axis=0))
