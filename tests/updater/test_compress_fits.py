"""What a checkpoint can't lose is told by its config.json, before any work."""

import pytest

from updater.compress import fits
from updater.errors import InputError
from updater.nemotron import presets
from updater.settings import CompressionSettings

FIELDS = presets.config_fields("nemotron-3-tiny", 512)


def asked(**changes: object) -> CompressionSettings:
    return CompressionSettings(method="magnitude", pattern="2:4", **changes)  # type: ignore[arg-type]


def test_a_pattern_that_fits_no_matrix_is_refused_with_what_to_do() -> None:
    fits.check(FIELDS, asked(), where="config.json")
    odd = FIELDS | {"moe_shared_expert_intermediate_size": 130}
    with pytest.raises(InputError, match=r"layers\.\d+\.mixer\.shared_experts\.down.* 130 columns"):
        fits.check(odd, asked(), where="config.json")


def test_attention_counts_only_where_it_may_lose_weights() -> None:
    odd = FIELDS | {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 30}
    fits.check(odd, asked(), where="config.json")
    with pytest.raises(InputError, match=r"o_proj\.weight has 30 columns.*leave the pattern out"):
        fits.check(odd, asked(attention=True), where="config.json")


def test_too_much_is_told_by_the_names_that_were_typed() -> None:
    much = CompressionSettings(method="magnitude", remove="layers", sparsity=0.99)
    with pytest.raises(InputError, match=r"^compression\.sparsity \(--sparsity\) = 0\.99 of ") as e:
        fits.check(FIELDS, much, where="config.json")
    assert "must stay" in str(e.value)
    assert "set it to 0." in str(e.value)
