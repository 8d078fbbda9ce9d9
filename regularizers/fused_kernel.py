"""The Triton kernel of `regularizers.fused`, apart from it because triton is not everywhere."""

import triton
import triton.language as tl


@triton.jit
def pull_kernel(  # type: ignore[no-untyped-def]
    gradient_at,
    theta_at,
    anchor_at,
    weight_at,  # of every element; factored, of every row
    columns_at,
    strength,
    num_elements,
    num_rows,
    num_columns,
    FACTORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements: gradient += strength * weight * (theta - anchor)."""
    first = tl.program_id(0).to(tl.int64) * BLOCK  # a stack of experts has more than 2^31 elements
    place = first + tl.arange(0, BLOCK)
    inside = place < num_elements
    gradient = tl.load(gradient_at + place, mask=inside)
    theta = tl.load(theta_at + place, mask=inside).to(tl.float32)
    anchor = tl.load(anchor_at + place, mask=inside).to(tl.float32)
    if FACTORED:
        row = place // num_columns
        column = row // num_rows * num_columns + place % num_columns
        weight = tl.load(weight_at + row, mask=inside) * tl.load(columns_at + column, mask=inside)
    else:
        weight = tl.load(weight_at + place, mask=inside).to(tl.float32)
    pulled = gradient.to(tl.float32) + strength * weight * (theta - anchor)
    tl.store(gradient_at + place, pulled.to(gradient.dtype), mask=inside)
