"""The architectures that `scratch` can build, as the fields of a released config.json.

Not the loader: a checkpoint that exists brings its own config.json. Called by
`updater.nemotron.checkpoint.create` and by benchmarks. Imports no torch until `config_for` runs.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updater.errors import InputError, did_you_mean
from updater.nemotron.layout import released_form, tensor_shapes
from updater.nemotron.releases import RELEASES

if TYPE_CHECKING:
    from transformers import NemotronHConfig

# The fields, and their names, of NVIDIA-Nemotron-3-Nano-30B-A3B's config.json, which hold for
# every size. Without time_step_limit: its value, [0, Infinity], is the default and is not JSON.
_FAMILY: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "conv_kernel": 4,
    "expand": 2,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "mamba_hidden_act": "silu",
    "mamba_proj_bias": False,
    "mamba_ssm_cache_dtype": "float32",
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "mlp_hidden_act": "relu2",
    "n_group": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_logits_to_keep": 1,
    "rescale_prenorm_residual": True,
    "residual_in_fp32": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "time_step_floor": 1e-4,
    "time_step_max": 0.1,
    "time_step_min": 1e-3,
    "topk_group": 1,
    "torch_dtype": "float32",
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
    "use_mamba_kernels": True,
}

# Before the releases, shapes of our own in the family's proportions: every kind of layer that Nano
# has, in Nano's order at the start (MEM*E..). chunk_size 32: the fastest of 16..256 on a CPU
# (measured, with 64 within 3 %). nemotron-3-tiny was chosen by measurement on CLINC150: see
# TrainingSettings.
PRESETS: dict[str, dict[str, Any]] = {
    "nemotron-3-tiny": {
        "hybrid_override_pattern": "MEM*EME",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "mamba_num_heads": 4,
        "mamba_head_dim": 64,
        "ssm_state_size": 32,
        "n_groups": 1,
        "chunk_size": 32,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "moe_shared_expert_intermediate_size": 256,
        "intermediate_size": 256,
        "routed_scaling_factor": 2.5,
    },
    "nemotron-3-small": {
        "hybrid_override_pattern": "MEMEM*EMEME",
        "hidden_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "ssm_state_size": 64,
        "n_groups": 2,
        "chunk_size": 32,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 320,
        "moe_shared_expert_intermediate_size": 640,
        "intermediate_size": 640,
        "routed_scaling_factor": 2.5,
    },
    **RELEASES,
}


_CURE = "give the config.json of a Nemotron-H checkpoint"
_SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")


def config_fields(architecture: str, vocabulary_size: int) -> dict[str, Any]:
    """The fields of a config.json in NVIDIA's released form, for a vocabulary of this many entries.

    Args:
        architecture: a name in `PRESETS`, or the path of a config.json in released form.

    Raises:
        InputError: an unknown preset, a file that is not a Nemotron-H config.json, or a shape
            that cannot be built.
    """
    if architecture in PRESETS:
        fields = _FAMILY | PRESETS[architecture]
        fields["num_hidden_layers"] = len(fields["hybrid_override_pattern"])
    elif architecture.endswith(".json") or Path(architecture).is_file():
        fields = read_config(Path(architecture))
    else:
        raise InputError(
            f'model.architecture = "{architecture}"',
            f"must be one of {', '.join(PRESETS)}, or the path of a config.json",
            did_you_mean(architecture, PRESETS) or f'write "{next(iter(PRESETS))}"',
        )
    fields = {key: value for key, value in fields.items() if key != "auto_map"}
    fields["vocab_size"] = vocabulary_size
    tensor_shapes(fields, where=architecture)
    return fields


def config_for(architecture: str, vocabulary_size: int) -> "NemotronHConfig":
    """The transformers configuration of `architecture` with this many vocabulary entries.

    Raises:
        InputError: as `config_fields`.
    """
    return transformers_config(config_fields(architecture, vocabulary_size))


def transformers_config(fields: dict[str, Any]) -> "NemotronHConfig":
    """The transformers configuration that stands for a released config.json's fields."""
    from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig

    # auto_map names code that we never run; num_hidden_layers follows from the pattern.
    skipped = ("auto_map", "num_hidden_layers", "transformers_version")
    return NemotronHConfig(**{k: v for k, v in fields.items() if k not in skipped})


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a Nemotron-H config.json in released form, whether NVIDIA wrote it or
    transformers' `save_pretrained`.

    Raises:
        InputError: the file is missing, is not JSON, or describes another kind of model.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: not found", "config.json must exist", _CURE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", "must be a readable JSON file", _CURE) from None
    return parse_config(text, where=str(path))


def parse_config(text: str, *, where: str) -> dict[str, Any]:
    """The same of a file's text.

    Raises:
        InputError: it is no JSON, or describes another kind of model.
    """
    try:
        fields = json.loads(text, object_hook=_special_float)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: {error}", "must be a readable JSON file", _CURE) from None
    kind = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
    if kind != "nemotron_h":
        raise InputError(f"{where}: model_type = {kind!r}", 'must be "nemotron_h"', _CURE)
    return released_form(fields)


def _special_float(fields: dict[str, Any]) -> Any:
    """transformers 5 writes {"__float__": "Infinity"} where JSON has no number for it."""
    if fields.keys() == {"__float__"} and fields["__float__"] in _SPECIAL_FLOATS:
        return float(fields["__float__"])
    return fields
