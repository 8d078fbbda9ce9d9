"""Parts by name: their entries by hand, in every form of the family, and which go first."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.parts import Member
from updater.errors import InputError
from updater.nemotron import presets
from updater.nemotron.layout import mtp_shapes, tensor_shapes
from updater.nemotron.parts import Parts, listed
from updater.nemotron.sparsity import KINDS

WHERE = "config.json"


@pytest.fixture
def fields(micro: str) -> dict[str, Any]:
    """ME*-E, with a head *E that drafts, and biases everywhere."""
    read: dict[str, Any] = json.loads(Path(micro).read_text())
    head = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    return read | head | {"vocab_size": 64, "mlp_bias": True, "use_bias": True}


def all_of(fields: dict[str, Any], kind: str, **asked: Any) -> dict[str, Parts]:
    return {parts.key: parts for parts in listed(fields, kind, where=WHERE, **asked)}


def entries(parts: Parts) -> dict[str, tuple[int, list[list[int]]]]:
    stem = f"{parts.key}."
    return {m.name.removeprefix(stem): (m.dim, m.entries.tolist()) for m in parts.members}


def test_heads_lie_in_the_segments_of_their_layer(fields: dict[str, Any]) -> None:
    """Two heads of two channels in two groups with a state of 3: in_proj makes z (4), x (4), B (6),
    C (6) and dt (2)."""
    small = {"mamba_num_heads": 2, "mamba_head_dim": 2, "ssm_state_size": 3}
    (parts,) = all_of(fields | small, "heads").values()
    assert (parts.key, parts.size) == ("backbone.layers.0.mixer", "mamba_num_heads")
    assert (parts.count, parts.groups, parts.numbered) == (2, 2, False)
    rows, channels, each = [[0, 1, 4, 5, 20], [2, 3, 6, 7, 21]], [[0, 1], [2, 3]], [[0], [1]]
    assert entries(parts) == {
        "in_proj.weight": (0, rows),
        "in_proj.bias": (0, rows),
        "conv1d.weight": (0, channels),
        "conv1d.bias": (0, channels),
        "A_log": (0, each),
        "D": (0, each),
        "dt_bias": (0, each),
        "norm.weight": (0, channels),
        "out_proj.weight": (1, channels),
    }
    assert parts.lifted == "backbone.layers.0.mixer.norm.weight"


def test_neurons_are_of_every_mlp(fields: dict[str, Any]) -> None:
    found = all_of(fields, "neurons")
    experts = [f".experts.{n}" for n in range(6)]
    mlps = [
        f"{layer}.mixer{mlp}"
        for layer in ("backbone.layers.1", "backbone.layers.4", "mtp.layers.1")
        for mlp in (".shared_experts", *experts)
    ]
    assert sorted(found) == sorted([*mlps, "backbone.layers.3.mixer"])
    of_dense, of_shared = found["backbone.layers.3.mixer"], found[mlps[0]]
    assert (of_dense.size, of_dense.count) == ("intermediate_size", 32)
    assert (of_shared.size, of_shared.count) == ("moe_shared_expert_intermediate_size", 32)
    each = [[n] for n in range(32)]
    for one in (of_dense, of_shared):
        assert entries(one) == {
            "up_proj.weight": (0, each),
            "up_proj.bias": (0, each),
            "down_proj.weight": (1, each),
        }
    of_expert = found["mtp.layers.1.mixer.experts.5"]
    assert (of_expert.size, of_expert.count) == ("moe_intermediate_size", 16)
    assert list(entries(of_expert)) == ["up_proj.weight", "down_proj.weight"]  # never a bias


def test_experts_and_layers_have_tensors_of_their_own(fields: dict[str, Any]) -> None:
    found = all_of(fields | {"n_group": 3}, "experts")
    assert list(found) == [
        "backbone.layers.1.mixer.experts",
        "backbone.layers.4.mixer.experts",
        "mtp.layers.1.mixer.experts",
    ]
    assert {(p.size, p.count, p.groups, p.numbered) for p in found.values()} == {
        ("n_routed_experts", 6, 3, True)
    }
    gate = "backbone.layers.1.mixer.gate"
    assert [(m.name, m.dim) for m in found["backbone.layers.1.mixer.experts"].members] == [
        (f"{gate}.weight", 0),
        (f"{gate}.e_score_correction_bias", 0),
    ]
    (layers,) = all_of(fields, "layers").values()
    assert (layers.key, layers.count, layers.fixed) == ("backbone.layers", 5, (2,))
    (layers,) = all_of(fields, "layers", attention=True).values()
    assert layers.fixed == ()


def test_a_head_that_is_not_there_has_no_parts(fields: dict[str, Any]) -> None:
    for kind in KINDS:
        without = all_of(fields, kind, head=False)
        assert without.keys() == {k for k in all_of(fields, kind) if not k.startswith("mtp.")}
    with pytest.raises(InputError, match="must be one of neurons, experts, heads, layers"):
        all_of(fields, "channels")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_members_are_tensors_of_the_model_and_within_them(name: str) -> None:
    fields = presets.config_fields(name, 1024)
    if fields.get("n_routed_experts", 0) > 128:  # all layers of one sort are alike
        fields |= {"hybrid_override_pattern": "ME*", "n_routed_experts": 32}
    shapes = tensor_shapes(fields, where="") | mtp_shapes(fields, where="")
    for kind in KINDS:
        for parts in listed(fields, kind, where=""):
            for member in parts.members:
                assert len(member.entries) == parts.count
                assert int(member.entries.max()) < shapes[member.name][member.dim], member.name


def test_the_highest_stay_in_each_group_but_for_those_that_must() -> None:
    parts = Parts("k", "n", 6, groups=2)
    scores = torch.tensor([5.0, 1, 4, 0.5, 0.1, 0.2])
    assert parts.highest(scores, 4).tolist() == [True, False, True, True, False, True]
    assert parts.highest(torch.zeros(6), 2).tolist() == [False, False, True] * 2
    fixed = Parts("k", "n", 3, fixed=(0,))
    assert fixed.highest(torch.tensor([0.0, 2, 1]), 2).tolist() == [True, True, False]
    assert scores[0] == 5
    for wrong in (3, 0, 8):
        with pytest.raises(ValueError, match=r"must be 2 to 6, and a multiple of 2"):
            parts.highest(scores, wrong)
    with pytest.raises(ValueError, match=r"have shape \(5,\): must be \(6,\)"):
        parts.highest(scores[:5], 4)


def test_the_score_of_an_expert_is_that_of_all_its_weights() -> None:
    parts = Parts("x.experts", "n", 2, (Member.each("x.gate", 0, 2),), numbered=True)
    scores = {
        "x.gate": torch.tensor([[1.0, 2], [3, 4]]),
        "x.experts.0.up": torch.full((2, 2), 10.0),
        "x.experts.1.up": torch.tensor([100.0]),
        "x.experts.1.down": torch.tensor([1000.0]),
        "x.other": torch.tensor([7.0]),
    }
    assert parts.totals(scores.__getitem__, scores).tolist() == [43, 1107]
