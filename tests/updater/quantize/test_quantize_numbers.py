"""One weight, quantized and read back: against numpy, by hand, and within what rounding allows.

Numpy's way is written from the formats' definitions and shares no code with torchao.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from updater.compress.quantize.pack import input_scale, pack
from updater.errors import InputError
from updater.nemotron.packed import BITS, Packed
from updater.nemotron.unpack import unpack

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
# Every finite E4M3 that is not negative: 4 bits of exponent of bias 7, 3 bits of mantissa, and
# what would be infinity is one more power of two, but for its last number.
_POWERS = [2.0 ** (e - 7) * (1 + m / 8) for e in range(1, 16) for m in range(8)]
E4M3 = np.array([m / 8 * 2.0**-6 for m in range(8)] + _POWERS[:-1])
ALL = ("int8", "int4", "fp8", "nvfp4")

Numbers = NDArray[np.float64]


def nearest(values: Numbers, grid: Numbers) -> Numbers:
    """Each value's neighbour in a grid of magnitudes; of two as near the one of even place."""
    above = np.searchsorted(grid, np.abs(values)).clip(1, len(grid) - 1)
    low, high = np.abs(np.abs(values) - grid[above - 1]), np.abs(grid[above] - np.abs(values))
    up = (high < low) | ((high == low) & (above % 2 == 0))
    return np.copysign(grid[np.where(up, above, above - 1)], values)


def by_numpy(scheme: str, weight: Numbers, group: int) -> Numbers:
    """What a float32 weight becomes."""
    if scheme == "fp8":
        scale = np.float32(np.abs(weight).max() / 448)
        return nearest(weight / scale, E4M3) * scale
    grouped = weight.reshape(len(weight), -1, group)
    largest = np.abs(grouped).max(-1, keepdims=True)
    if scheme == "nvfp4":
        whole = np.float32(largest.max() / (448 * 6))
        scales = nearest(largest / 6 / whole, E4M3) * whole
        return (nearest((grouped / scales).clip(-6, 6), E2M1) * scales).reshape(weight.shape)
    half = 2 ** (BITS[scheme] - 1)
    scales = (largest / (half - 0.5)).astype(np.float32)
    values = np.round(grouped / scales).clip(-half, half - 1)
    return (values * scales).reshape(weight.shape)


def there_and_back(weight: torch.Tensor, packed: Packed) -> torch.Tensor:
    return unpack(packed, pack(weight, packed, where="w"))


def random(shape: tuple[int, int] = (24, 128), seed: int = 0) -> torch.Tensor:
    """With some columns far larger than others, as real weights have them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * 0.02
    return weight * torch.exp(torch.randn(shape[1], generator=generator))


def packed(scheme: str, weight: torch.Tensor, scales: str = "F32") -> Packed:
    return Packed(scheme, (weight.shape[0], weight.shape[1]), 32 if scheme in BITS else 16, scales)


@pytest.mark.parametrize("scheme", ALL)
def test_numpy_gives_the_same(scheme: str) -> None:
    weight = random()
    how = packed(scheme, weight)
    expected = by_numpy(scheme, weight.double().numpy(), how.group)
    found = there_and_back(weight, how).double().numpy()
    off = [np.abs(one - weight.double().numpy()) for one in (found, expected)]
    least = 1e-6 * weight.abs().max().item()
    assert np.abs(off[0] - off[1]).max() <= least
    # The largest of a group of whole numbers is in the middle of two, 7.5 steps or 127.5: float32
    # and float64 may come out on different sides of it.
    middles = weight.numel() // how.group if scheme in BITS else 0
    assert (np.abs(found - expected) > least).sum() <= middles


def test_a_block_of_nvfp4_by_hand() -> None:
    """The largest value is 6 * 448 = 2688, so the scale of all is 1. The first block's largest is
    12, its scale 2; the second's is 2688, its scale 448. Halves of the first block's values: 0,
    0.25 (a tie of 0 and 0.5: the even one), 0.5, 0.75 (a tie of 0.5 and 1), 1, 2.5 (of 2 and 3),
    3.5 (of 3 and 4), 5 (of 4 and 6), 6, and with the other sign -0.5, -1.5, -2, -3, -4, -6, -0.3.
    """
    first = [0, 0.5, 1, 1.5, 2, 5, 7, 10, 12, -1, -3, -4, -6, -8, -12, -0.6]
    second = [2688.0, -448.0] + [0.0] * 14
    weight = torch.tensor([first + second])
    pieces = pack(weight, packed("nvfp4", weight), where="w")
    assert pieces["weight_scale_2"].item() == 1
    assert pieces["weight_scale"].float().tolist() == [[2, 448]]
    # E2M1's codes: sign, two bits of exponent, one of mantissa. The first of two in the low bits.
    codes = [0, 0, 1, 2, 2, 4, 6, 6, 7, 9, 11, 12, 13, 14, 15, 9] + [7, 10] + [0] * 14
    bytes_ = [low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)]
    assert pieces["weight"].tolist() == [bytes_]
    back = there_and_back(weight, packed("nvfp4", weight))[0].tolist()
    assert back[:16] == [0, 0, 1, 2, 2, 4, 8, 8, 12, -1, -3, -4, -6, -8, -12, -1]
    assert back[16:18] == [2688, -448]


def test_words_of_int4_by_hand() -> None:
    """A group from -7.5 to 7.5 has the scale 1; each value plus 8 is four bits of a word."""
    weight = torch.tensor([[-7.5, 7.0, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0] + [0.0] * 24])
    pieces = pack(weight, packed("int4", weight), where="w")
    assert pieces["weight_scale"].tolist() == [[1.0]]
    assert pieces["weight_shape"].tolist() == [1, 32]
    nibbles = [0, 15, 8, 9, 7, 10, 6, 11]
    word = sum(nibble << 4 * place for place, nibble in enumerate(nibbles))
    assert pieces["weight_packed"].numpy().view("<u4").tolist() == [[word] + [0x88888888] * 3]


def test_words_of_int8_by_hand() -> None:
    weight = torch.tensor([[-127.5, 127.0, 0.0, 1.0] + [0.0] * 28])
    pieces = pack(weight, packed("int8", weight), where="w")
    word = 0 | 255 << 8 | 128 << 16 | 129 << 24
    assert pieces["weight_packed"].numpy().view("<u4").tolist() == [[word] + [0x80808080] * 7]


@pytest.mark.parametrize("scales", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(("scheme", "half"), [("int8", 128), ("int4", 8)])
def test_whole_numbers_are_off_by_half_a_step(scheme: str, half: int, scales: str) -> None:
    """And at the end of the range by what the scale lost to rounding, 2^-8 of it at most."""
    weight = random()
    how = packed(scheme, weight, scales)
    pieces = pack(weight, how, where="w")
    step = pieces["weight_scale"].float().repeat_interleave(how.group, 1)
    off = (unpack(how, pieces) - weight).abs()
    assert bool((off <= step * (0.5 + half * 2.0**-8) * 1.0001).all())
    assert (
        pieces["weight_scale"].dtype
        == {
            "F32": torch.float32,
            "BF16": torch.bfloat16,
            "F16": torch.float16,
        }[scales]
    )


def test_floating_ones_are_off_by_half_of_their_last_place() -> None:
    """E4M3: 2^-4 of the value, or of its least normal number, 2^-6 of the scale."""
    weight = random()
    scale = weight.abs().max() / 448
    off = (there_and_back(weight, packed("fp8", weight)) - weight).abs()
    assert bool((off <= 2.0**-4 * torch.maximum(weight.abs(), scale * 2.0**-6) * 1.0001).all())
    # NVFP4: half of the widest gap, 4 to 6, of a scale that is itself off by 2^-4.
    blocks = weight.unflatten(1, (-1, 16)).abs().amax(-1).repeat_interleave(16, 1)
    off = (there_and_back(weight, packed("nvfp4", weight)) - weight).abs()
    assert bool((off <= blocks / 6 * (1 + 6 * 2.0**-4)).all())


def test_more_bits_are_nearer() -> None:
    weight = random()
    off = {
        scheme: float((there_and_back(weight, packed(scheme, weight)) - weight).square().mean())
        for scheme in ALL
    }
    assert off["int8"] < off["fp8"] < off["nvfp4"] < float(weight.square().mean())
    assert off["int8"] < off["int4"] < float(weight.square().mean())


@pytest.mark.parametrize("scheme", ALL)
def test_what_was_read_is_quantized_to_itself(scheme: str) -> None:
    weight = there_and_back(random(), packed(scheme, random()))
    torch.testing.assert_close(
        there_and_back(weight, packed(scheme, weight)), weight, rtol=0.07, atol=0
    )


@pytest.mark.parametrize("scales", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("scheme", ALL)
def test_zeros_stay_zeros(scheme: str, scales: str) -> None:
    """An expert that was pruned, and a group of another."""
    weight = torch.zeros(4, 64)
    assert not bool(there_and_back(weight, packed(scheme, weight, scales)).any())
    weight[1, 32:] = 1.0
    back = there_and_back(weight, packed(scheme, weight, scales))
    assert not bool(back[weight == 0].any())
    torch.testing.assert_close(back[1, 32:], torch.ones(32), rtol=0.07, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(ALL),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 100),
    st.floats(-30, 10),
)
def test_rows_are_read_one_by_one_as_all_together(
    scheme: str, rows: int, groups: int, seed: int, power: float
) -> None:
    """Of any size and any magnitude: what a process reads of a model in shards."""
    weight = random((rows, 32 * groups), seed) * 2.0**power
    how = packed(scheme, weight)
    pieces = pack(weight, how, where="w")
    whole = unpack(how, pieces)
    assert bool(whole.isfinite().all())
    for row in range(rows):
        part = {k: p[row : row + 1] if p.ndim else p for k, p in pieces.items()}
        assert torch.equal(unpack(how, part), whole[row : row + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scheme", ALL)
def test_what_is_not_finite_is_refused(scheme: str, value: float) -> None:
    weight = random()
    weight[3, 5] = value
    with pytest.raises(InputError, match=r"here: holds values that are not finite"):
        pack(weight, packed(scheme, weight), where="here")


def test_inputs_are_divided_to_the_end_of_the_range() -> None:
    assert input_scale("fp8", 896.0).item() == 2
    assert input_scale("nvfp4", 5376.0).item() == 2
    assert input_scale("fp8", 0.0).item() > 0
