"""How many parts stay: the rounding by hand, and what a model can't run without."""

from typing import Any

import pytest

from updater.errors import InputError
from updater.nemotron import presets
from updater.nemotron.sparsity import KINDS, fewest, staying

NANO = presets.config_fields("nemotron-3-nano", 131_072)


def stay(kind: str, sparsity: float, fields: dict[str, Any] = NANO, **asked: Any) -> list[int]:
    return list(staying(fields, kind, sparsity, where="c", **asked).values())


def test_a_share_is_rounded_to_whole_numbers_that_run() -> None:
    # Nano has 3712 shared neurons, 1856 of each expert, 128 experts, 64 heads in 8 groups.
    assert stay("neurons", 0.3) == [2598, 1296]  # 2598.4; 1299.2, of which 8 does not divide 1299
    assert stay("neurons", 0.3, multiple_of=64) == [2624, 1280]  # 40.6 and 20.3 times
    assert stay("experts", 0.3) == [90]  # 89.6
    assert stay("experts", 0.3, multiple_of=8) == [88]
    assert stay("heads", 0.2) == [48]  # 51.2: 6.4 in each group
    assert stay("heads", 0.1875) == [56]  # 52 is as near to 48 as to 56
    assert stay("layers", 0.1) == [47]  # of 52, 46.8
    for kind in KINDS:
        assert stay(kind, 0.0) == [NANO[size] for size in KINDS[kind] if size in NANO]


def test_each_sort_that_the_model_has_is_told_by_its_field() -> None:
    dense = presets.config_fields("nemotron-3-nano-4b", 131_072)
    assert staying(dense, "neurons", 0.5, where="") == {"intermediate_size": 6272}
    assert stay("heads", 0.5, dense) == [48]
    with pytest.raises(InputError, match=r"sparsity of experts = 0.5. c: the model has no experts"):
        stay("experts", 0.5, dense)
    drafting = dense | {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    drafting |= {name: NANO[name] for name in NANO if "expert" in name or name.startswith("moe")}
    assert stay("experts", 0.5, drafting) == [64]  # the head alone has some


@pytest.mark.parametrize(
    ("kind", "changes", "sparsity", "most", "left"),
    [
        ("experts", {}, 0.96, 0.9531, 6),  # num_experts_per_tok
        ("experts", {"num_experts_per_tok": 1}, 0.99, 0.9843, 2),
        ("experts", {"n_group": 8, "topk_group": 2}, 0.9, 0.8125, 24),  # 3 in each of 8
        ("experts", {"n_group": 8, "topk_group": 4}, 0.95, 0.875, 16),  # 2 in each of 8
        ("heads", {}, 0.95, 0.875, 8),
        ("layers", {}, 0.9, 0.8846, 6),  # all but attention
    ],
)
def test_too_few_are_refused_with_the_most_that_can_go(
    kind: str, changes: dict[str, int], sparsity: float, most: float, left: int
) -> None:
    fields = NANO | changes
    with pytest.raises(InputError, match=rf"at least {left} must stay.*set it to {most} at most"):
        stay(kind, sparsity, fields)
    assert stay(kind, most, fields) == [left]


def test_attention_goes_where_that_is_asked() -> None:
    assert stay("layers", 0.97, attention=True) == [2]
    assert fewest(NANO, "num_hidden_layers") == 1


def test_of_neurons_the_sort_with_the_fewest_bounds_all() -> None:
    with pytest.raises(
        InputError, match=r"of moe_intermediate_size = 1856 at least 1024 must stay"
    ):
        stay("neurons", 0.9, multiple_of=1024)
    assert stay("neurons", 0.4482, multiple_of=1024) == [2048, 1024]


def test_what_can_t_be_obeyed_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"parts = 'neuron'. must be one of .* did you mean neurons"
    ):
        stay("neuron", 0.1)
    for sparsity in (-0.1, 1.0):
        with pytest.raises(InputError, match="must be at least 0 and less than 1"):
            stay("heads", sparsity)
    with pytest.raises(InputError, match=r"so little is none of mamba_num_heads.* set it to 0.125"):
        stay("heads", 0.05)
    assert stay("heads", 0.125) == [56]
    with pytest.raises(InputError, match=r"can go. leave them out"):
        stay("heads", 0.05, NANO | {"mamba_num_heads": 8})
