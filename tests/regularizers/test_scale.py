"""Importance in units of its mean: whatever the format, only the proportions are left."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regularizers.formats import FORMATS, kept, num_bytes, whole
from regularizers.scale import SCALES, scaled
from updater.settings import RegularizerSettings, regularizing


def estimated(factor: float = 1.0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"experts": (3, 20, 30), "matrix": (40, 50), "vector": (7,)}
    return {name: factor * torch.rand(s, generator=random) ** 8 for name, s in shapes.items()}


@pytest.mark.parametrize("form", FORMATS)
@given(exponent=st.integers(-12, 12))
def test_the_mean_is_one_and_the_proportions_stay(form: str, exponent: int) -> None:
    before = kept(estimated(10.0**exponent), form)
    after = scaled(before, "mean")
    entries = torch.cat([whole(weight).flatten() for weight in after.values()])
    assert entries.mean().item() == pytest.approx(1, rel=2e-3)
    assert num_bytes(after) == num_bytes(before)
    factor = entries.double().sum() / sum(whole(w).double().sum() for w in before.values())
    for name, weight in after.items():
        torch.testing.assert_close(
            whole(weight), (whole(before[name]).double() * factor).float(), rtol=1e-2, atol=0
        )


def test_none_changes_nothing_and_nothing_stays_nothing() -> None:
    before = kept(estimated(), "float32")
    assert scaled(before, "none") is before
    zeros = {name: torch.zeros_like(tensor) for name, tensor in estimated().items()}
    assert scaled(zeros, "mean") is zeros


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of none, mean"):
        scaled({}, "max")
    assert regularizing.SCALES == SCALES


def test_what_is_scaled_has_one_default_strength() -> None:
    for method in regularizing.REGULARIZERS:
        plain, scale = (RegularizerSettings(method=method, scale=s) for s in SCALES)
        assert plain.penalty_strength == regularizing.DEFAULT_STRENGTHS.get(method, 0)
        is_scaled = "scale" in regularizing.METHODS[method].heeds
        expected = regularizing.SCALED_STRENGTH if is_scaled else plain.penalty_strength
        assert scale.penalty_strength == expected
        assert RegularizerSettings(method=method, strength=2.0).penalty_strength == 2
