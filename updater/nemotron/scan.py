"""Mamba-2's scan in PyTorch's operators: in float32, and of short texts what they need and no more.

A text that fits one chunk has no state to hand on, so that of the four parts of the state space
dual form (Dao & Gu 2024, arXiv 2405.21060, section 6) the first is all there is: Y = (L * C B^T) X.
transformers' operators compute the others too, pad to the chunk, and repeat B and C for each head.
They also add dt_bias in the dtype of the projection, and leave their products to autocast: of
bfloat16 inputs the first costs 0.2 % of the output's norm, both cost 0.3 % (tests' inputs).
mamba-ssm's kernels, which take the place of all of this on GPUs, add it in float32 and multiply in
the dtype of what they are given. Called by `updater.nemotron.checkpoint`.

Shape suffixes: b rows, l and s positions, h heads, g groups of heads, p head size, n state size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.nemotron_h import modeling_nemotron_h

from updater.nemotron.precise import without_autocast

SHORT = 64
"""Tokens up to which it is taken even where chunks are shorter. By measurement (bench/scan.py): a
step with texts of 64 tokens is 1.2 times as fast as in chunks of 32, one with 128 as fast, and one
with 256 slower."""

REFERENCE = modeling_nemotron_h.mamba2_chunk_scan
_ONE_TOKEN = modeling_nemotron_h.mamba2_selective_state_update


def scan_in_float32() -> None:
    """From now on models scan in float32, and texts of one chunk by `scan`; twice is once."""
    modeling_nemotron_h.mamba2_chunk_scan = chunk_scan
    modeling_nemotron_h.mamba2_selective_state_update = one_token


def scan(
    x_blhp: Tensor,
    dt_blh: Tensor,
    a_h: Tensor,
    b_blgn: Tensor,
    c_blgn: Tensor,
    *,
    d_h: Tensor,
    dt_bias_h: Tensor,
    dt_limit: tuple[float, float],
) -> Tensor:
    """y_blhp, float32: the outputs of a scan that begins with no state."""
    num_heads, num_groups = x_blhp.shape[2], b_blgn.shape[2]
    dt_blh = functional.softplus(dt_blh.float() + dt_bias_h.float()).clamp(*dt_limit)
    x_bhlp = x_blhp.float().transpose(1, 2)
    # How much of position s is left at l: exp of the sum of a dt over what lies between.
    sums_bhl = (dt_blh * a_h.float()).transpose(1, 2).cumsum(-1, dtype=torch.float64).float()
    between_bhls = sums_bhl[..., :, None] - sums_bhl[..., None, :]
    later_ls = torch.ones(between_bhls.shape[-2:], dtype=torch.bool, device=x_blhp.device).triu(1)
    left_bhls = between_bhls.masked_fill(later_ls, -torch.inf).exp()
    scores_bgls = c_blgn.float().transpose(1, 2) @ b_blgn.float().permute(0, 2, 3, 1)
    left_bghls = left_bhls.unflatten(1, (num_groups, num_heads // num_groups))
    weights_bhls = (left_bghls * scores_bgls[:, :, None]).flatten(1, 2)
    y_bhlp = weights_bhls @ (x_bhlp * dt_blh.transpose(1, 2)[..., None])
    return torch.addcmul(y_bhlp, x_bhlp, d_h[:, None, None].float()).transpose(1, 2)


def chunk_scan(
    hidden_states: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, **more: Any
) -> Any:
    """In transformers' words: by `scan` where that is all, else as transformers does. float32."""
    whole = more.get("initial_states") is None and not more.get("return_final_states")
    known = more.get("dt_softplus") and more.get("D") is not None and more.get("seq_idx") is None
    with without_autocast(dt):
        if not (whole and known and hidden_states.shape[1] <= max(chunk_size, SHORT)):
            return REFERENCE(hidden_states, dt.float(), A, B, C, chunk_size, **more)
        return scan(
            *(hidden_states, dt, A, B, C),
            d_h=more["D"],
            dt_bias_h=more["dt_bias"],
            dt_limit=more["dt_limit"],
        )


def one_token(state: Tensor, *given: Tensor, **more: Any) -> Tensor:
    """In transformers' words, of decoding with a cache: as transformers does, in float32."""
    with without_autocast(state):
        y: Tensor = _ONE_TOKEN(state, *(tensor.float() for tensor in given), **more)
    return y
