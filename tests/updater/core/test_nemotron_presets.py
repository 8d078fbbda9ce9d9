"""Shapes that scratch can build, and the layout that checkpoints are checked against."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.nemotron import presets
from updater.nemotron.layout import tensor_shapes
from updater.nemotron.recognise import release
from updater.nemotron.weights import released

LATENT = {
    "moe_latent_size": 16,
    "num_nextn_predict_layers": 1,
    "use_bias": True,
    "mlp_bias": True,
    "use_conv_bias": False,
}


def built(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = NemotronHForCausalLM(presets.transformers_config(fields))
    return {name: tuple(tensor.shape) for name, tensor in released(model)}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_has_the_tensors_that_transformers_builds(name: str) -> None:
    fields = presets.config_fields(name, 2048)
    assert tensor_shapes(fields, where="") == built(fields)
    assert fields["num_hidden_layers"] == len(fields["hybrid_override_pattern"])


@pytest.mark.parametrize(
    ("name", "num_parameters", "num_tensors"),
    [
        # NVIDIA's model verification cards, and the technical reports.
        ("nemotron-3-nano-4b", 3_973_556_832, 263),
        ("nemotron-3-nano", 31_577_937_344, 6_243),
        ("nemotron-3-super", 120_668_687_360, 41_643),
        ("nemotron-3-ultra", 549_308_968_960, 49_983),
    ],
)
def test_a_release_has_the_published_parameters(
    name: str, num_parameters: int, num_tensors: int
) -> None:
    with torch.device("meta"):
        model = NemotronHForCausalLM(presets.config_for(name, 131_072))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert len(list(released(model))) == num_tensors


@pytest.mark.parametrize(("name", "millions"), [("nemotron-3-tiny", 1.9), ("nemotron-3-small", 18)])
def test_presets_have_the_sizes_they_are_named_for(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = NemotronHForCausalLM(presets.config_for(name, 2048))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.15)


@pytest.mark.parametrize("change", [{}, LATENT], ids=["plain", "latent and biases"])
def test_the_layout_holds_for_a_config_file(
    change: dict[str, Any], micro: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(json.loads(Path(micro).read_text()) | change | {"auto_map": {"A": "b"}})
    )
    fields = presets.config_fields(str(path), 333)
    assert fields["vocab_size"] == 333
    assert "auto_map" not in fields
    assert tensor_shapes(fields, where="") == built(fields)


@pytest.mark.parametrize("mamba", ["mamba", "linear_attention"])
def test_layer_names_stand_for_the_pattern(mamba: str, micro: str, tmp_path: Path) -> None:
    named = json.loads(Path(micro).read_text())
    pattern = named.pop("hybrid_override_pattern")
    named["layers_block_type"] = [mamba, "moe", "full_attention", "mlp", "moe"]
    named["mtp_layers_block_type"] = ["full_attention", "mlp"]
    (tmp_path / "config.json").write_text(json.dumps(named))
    fields = presets.config_fields(str(tmp_path / "config.json"), 333)
    assert fields["hybrid_override_pattern"] == pattern
    assert fields["mtp_hybrid_override_pattern"] == "*-"
    assert "layers_block_type" not in fields, "transformers would heed it before the pattern"


def test_numbers_that_json_has_not_are_read_as_transformers_writes_them(
    micro: str, tmp_path: Path
) -> None:
    written = json.loads(Path(micro).read_text()) | {
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "other": {"__float__": "none"},
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    fields = presets.read_config(tmp_path / "config.json")
    assert fields["time_step_limit"] == [0.0, float("inf")]
    assert fields["other"] == {"__float__": "none"}
    assert presets.transformers_config(fields).time_step_limit[1] == float("inf")


@pytest.mark.parametrize(
    ("name", "change", "known"),
    [
        ("nemotron-3-ultra", {"routed_scaling_factor": 2.5}, False),
        ("nemotron-3-nano-4b", {"chunk_size": 256}, True),  # not known, and so left out
        ("nemotron-3-super", {"mtp_hybrid_override_pattern": None}, True),  # by default the same
        ("nemotron-3-super", {"mtp_hybrid_override_pattern": "*EE"}, False),
        ("nemotron-3-nano", {"routed_scaling_factor": 5.0}, False),
        ("nemotron-3-super", {"num_experts_per_tok": 8}, False),
    ],
)
def test_a_release_is_known_by_what_is_published_of_it(
    name: str, change: dict[str, Any], known: bool
) -> None:
    told = presets.config_fields(name, 131_072)
    assert release(told) == name
    told = {key: value for key, value in (told | change).items() if value is not None}
    assert release(told) == (name if known else "")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean nemotron-3-tiny"):
        presets.config_for("nemotron3tiny", 512)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        ("{", "must be a readable JSON file"),
        ("[]", 'must be "nemotron_h"'),
        ('{"model_type": "llama"}', "model_type = 'llama'"),
        ('{"model_type": "nemotron_h"}', "hybrid_override_pattern"),
        ('{"model_type": "nemotron_h", "layers_block_type": ["conv"]}', "pattern = '?'"),
        ('{"model_type": "nemotron_h", "layers_block_type": 3}', "pattern = ''"),
        ('{"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}', "'MX'"),
        ('{"model_type": "nemotron_h", "hybrid_override_pattern": "M"}', "hidden_size = None"),
    ],
)
def test_a_bad_config_file_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message.replace("[", r"\[").replace("?", r"\?")):
        presets.config_fields(str(path), 512)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": True},
        {"mamba_num_heads": 3},
        {"num_key_value_heads": 3},
        {"num_experts_per_tok": 7},
        {"n_group": 6},
    ],
    ids=str,
)
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, Any], micro: str) -> None:
    fields = json.loads(Path(micro).read_text()) | {"vocab_size": 300} | change
    with pytest.raises(InputError, match=next(iter(change))):
        tensor_shapes(fields, where="config.json")
