"""Distillation: torch's own divergence, merged outcomes by numpy, hand-worked tails, sizes.

Shapes: c tokens, v vocabulary, k kept.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from regularizers.distill import condensed, divergence, joined

HALF = 2**-11  # float16 rounds a log-probability by this part of it at most


def logits(num_tokens: int, size: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_tokens, size, generator=generator)


def merged_divergence(
    theirs_cv: torch.Tensor, ours_cv: torch.Tensor, temperature: float, top_k: int
) -> np.ndarray:
    """The definition, one token at a time in float64."""
    found = []
    for theirs, ours in zip(theirs_cv.double().numpy(), ours_cv.double().numpy(), strict=True):
        p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (theirs, ours))
        order = np.argsort(-p)
        merge = [np.array([*d[order[:top_k]], d[order[top_k:]].sum()]) for d in (p, q)]
        found.append(temperature**2 * (merge[0] * np.log(merge[0] / merge[1])).sum())
    return np.array(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [11, 1000])
def test_with_all_kept_it_is_torchs_divergence(temperature: float, top_k: int) -> None:
    theirs_cv, ours_cv = logits(6, 11, 0), logits(6, 11, 1)
    found_c = divergence(condensed(theirs_cv, temperature=temperature, top_k=top_k), ours_cv)
    expected_c = temperature**2 * functional.kl_div(
        (ours_cv / temperature).log_softmax(1),
        (theirs_cv / temperature).log_softmax(1),
        log_target=True,
        reduction="none",
    ).sum(1)
    torch.testing.assert_close(found_c, expected_c, rtol=2e-3, atol=2e-3)


def test_but_for_what_float16_rounds_off_it_is_exact() -> None:
    """Against answers whose log-probabilities are float16 numbers that sum to one: powers of 2."""
    p_v = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    rounded = condensed(p_v.log()[None], temperature=1.0, top_k=5)
    theirs_v = torch.zeros(5).scatter(0, rounded.kept_ck[0].long(), rounded.logs_co[0].float())
    ours_cv = logits(1, 5, 2)
    expected = functional.kl_div(
        ours_cv[0].log_softmax(0), theirs_v.log_softmax(0), log_target=True, reduction="sum"
    )
    torch.testing.assert_close(divergence(rounded, ours_cv)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_what_is_not_kept_is_one_outcome(temperature: float, top_k: int) -> None:
    theirs_cv, ours_cv = logits(8, 50, 3), logits(8, 50, 4)
    found_c = divergence(condensed(theirs_cv, temperature=temperature, top_k=top_k), ours_cv)
    expected_c = merged_divergence(theirs_cv, ours_cv, temperature, top_k)
    np.testing.assert_allclose(found_c.numpy(), expected_c, rtol=5e-3, atol=1e-3 * temperature**2)


def test_the_tail_is_softened_too() -> None:
    """By hand: p = (4, 1, 1) / 6 has a tail of 1/3 beside the largest. At T = 2 the roots count:
    (2, 1, 1) / 4, a tail of 1/2."""
    logits_cv = torch.tensor([[4.0, 1.0, 1.0]]).log()
    for temperature, tail in ((1.0, 1 / 3), (2.0, 1 / 2)):
        kept = condensed(logits_cv, temperature=temperature, top_k=1)
        found = kept.logs_co.float().exp()[0].tolist()
        assert found == pytest.approx([1 - tail, tail], rel=2 * HALF)


@given(st.integers(0, 2**16), st.integers(1, 12), st.floats(0.25, 8.0), st.floats(0.0, 20.0))
def test_merging_loses_and_never_gains(
    seed: int, top_k: int, temperature: float, scale: float
) -> None:
    theirs_cv, ours_cv = logits(4, 12, seed, scale), logits(4, 12, seed + 1, scale)
    kept = condensed(theirs_cv, temperature=temperature, top_k=top_k)
    found_c = divergence(kept, ours_cv) / temperature**2
    whole_c = divergence(condensed(theirs_cv, temperature=temperature, top_k=12), ours_cv)
    slack_c = 1e-5 + 4 * HALF * (1 + whole_c / temperature**2)
    assert (found_c >= -1e-5).all()
    assert (found_c <= whole_c / temperature**2 + slack_c).all()
    # A model is at no distance from itself: what is left is float16's rounding, squared.
    assert (divergence(kept, theirs_cv) / temperature**2 < 1e-3).all()


@pytest.mark.parametrize("top_k", [3, 20])
def test_the_gradient_is_that_of_the_definition(top_k: int) -> None:
    """By central differences in float64: d/dz of T^2 KL."""
    theirs_cv, ours_cv = logits(1, 20, 5), logits(1, 20, 6).requires_grad_()
    kept = condensed(theirs_cv, temperature=2.0, top_k=top_k)
    (gradient_cv,) = torch.autograd.grad(divergence(kept, ours_cv).sum(), ours_cv)
    step, start_cv = 1e-5, ours_cv.detach().double()
    for place in range(20):
        up_cv, down_cv = start_cv.clone(), start_cv.clone()
        up_cv[0, place] += step
        down_cv[0, place] -= step
        both = [
            merged_divergence(theirs_cv, z, 2.0, top_k)[0]
            if top_k < 20
            else 4
            * float(
                functional.kl_div(
                    (z / 2).log_softmax(1),
                    (theirs_cv.double() / 2).log_softmax(1),
                    log_target=True,
                    reduction="sum",
                )
            )
            for z in (up_cv, down_cv)
        ]
        slope = (both[0] - both[1]) / (2 * step)
        assert float(gradient_cv[0, place]) == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("certain", [1e3, 1e5, 1e8])
def test_certainty_is_no_special_case(certain: float) -> None:
    """Where one outcome has all the mass, its tail's logarithm is beyond float16."""
    theirs_cv, ours_cv = torch.zeros(2, 6), torch.zeros(2, 6)
    theirs_cv[:, 0] = certain
    ours_cv[1, 1] = certain
    ours_cv.requires_grad_()
    found_c = divergence(condensed(theirs_cv, temperature=1.0, top_k=2), ours_cv)
    found_c.sum().backward()
    assert float(found_c[0].detach()) == pytest.approx(math.log(6), rel=1e-3)
    assert found_c.isfinite().all()
    assert ours_cv.grad is not None
    assert ours_cv.grad.isfinite().all()


@pytest.mark.parametrize(
    ("size", "top_k", "expected"),
    [
        (131_072, 32, 32 * 4 + 33 * 2),  # 194: of float32 logits 524,288
        (32_768, 32, 32 * 2 + 33 * 2),
        (32_769, 32, 32 * 4 + 33 * 2),
        (10, 32, 10 * 2 + 10 * 2),  # all kept, so no tail
    ],
)
def test_what_a_token_takes(size: int, top_k: int, expected: int) -> None:
    kept = condensed(torch.zeros(3, size), temperature=1.0, top_k=top_k)
    assert sum(t.element_size() * t.numel() for t in (kept.kept_ck, kept.logs_co)) == 3 * expected
    last = torch.zeros(1, size)
    last[0, -1] = 1.0
    assert int(condensed(last, temperature=1.0, top_k=1).kept_ck[0, 0]) == size - 1


def test_answers_are_joined_and_chosen_in_order() -> None:
    first_cv, second_cv = logits(3, 9, 7), logits(2, 9, 8)
    parts = [condensed(z, temperature=2.0, top_k=4) for z in (first_cv, second_cv)]
    both = joined([condensed(first_cv[:0], temperature=2.0, top_k=4), *parts])
    chosen = both.at(torch.tensor([4, 0]))
    picked_cv = torch.cat([second_cv[1:], first_cv[:1]])
    ours_cv = logits(2, 9, 9)
    direct = condensed(picked_cv, temperature=2.0, top_k=4)
    assert torch.equal(divergence(chosen, ours_cv), divergence(direct, ours_cv))
    nothing = divergence(both.at(torch.empty(0, dtype=torch.int64)), ours_cv[:0])
    assert nothing.sum() == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_no_such_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature is .* above 0"):
        condensed(torch.zeros(1, 3), temperature=temperature, top_k=1)


def test_no_such_number() -> None:
    with pytest.raises(ValueError, match="top_k is 0: must be at least 1"):
        condensed(torch.zeros(1, 3), temperature=1.0, top_k=0)
    kept = condensed(torch.zeros(2, 3), temperature=1.0, top_k=1)
    with pytest.raises(ValueError, match="1 tokens have 2 answers"):
        divergence(kept, torch.zeros(1, 3))
