"""The shapes that NVIDIA released, by the names that `model.architecture` takes.

Each has exactly as many parameters and tensors on disk as its release (a test holds it to that).
Where they are from: Nano, its config.json as quoted by NVIDIA's Megatron-Bridge recipes; Super, its
config.json and NVIDIA's Megatron launch scripts; Ultra, the technical report's table 1, the order
of layers in its config.json, and NVIDIA/Megatron-LM at commit 453761c, in examples/post_training/
modelopt/conf/nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16.sh (its
`--moe-router-topk-scaling-factor 5.0`); Nano-4B, its config.json.

Left out, because we don't know it: Nano-4B's chunk_size. That is how many positions a scan takes
at a time, and changes no shape and, but for rounding, no result; transformers' own 128 stands in.
Data only; what all have in common is in `updater.nemotron.presets`.
"""

from typing import Any

_ATTENTION = {"num_key_value_heads": 2, "head_dim": 128}
_MIXERS = {"mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8}
_MAMBA = {**_MIXERS, "chunk_size": 128}
# One block of attention and experts, which a serving stack runs once for each token it drafts.
_MTP = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}

RELEASES: dict[str, dict[str, Any]] = {
    "nemotron-3-nano-4b": {
        "hybrid_override_pattern": "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-",
        "hidden_size": 3136,
        "intermediate_size": 12544,
        "num_attention_heads": 40,
        "mamba_num_heads": 96,
        **_MIXERS,
        "mamba_head_dim": 80,
        **_ATTENTION,
        "num_key_value_heads": 8,
    },
    "nemotron-3-nano": {
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        "hidden_size": 2688,
        "num_attention_heads": 32,
        "mamba_num_heads": 64,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
        "routed_scaling_factor": 2.5,
        **_MAMBA,
        **_ATTENTION,
    },
    "nemotron-3-super": {
        "hybrid_override_pattern": (
            "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*"
            "EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
        ),
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "mamba_num_heads": 128,
        "n_routed_experts": 512,
        "num_experts_per_tok": 22,
        "moe_latent_size": 1024,
        "moe_intermediate_size": 2688,
        "moe_shared_expert_intermediate_size": 5376,
        "routed_scaling_factor": 5.0,
        **_MAMBA,
        **_ATTENTION,
        **_MTP,
    },
    "nemotron-3-ultra": {
        "hybrid_override_pattern": (
            "MEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*"
            "EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
        ),
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "mamba_num_heads": 256,
        "n_routed_experts": 512,
        "num_experts_per_tok": 22,
        "moe_latent_size": 2048,
        "moe_intermediate_size": 5120,
        "moe_shared_expert_intermediate_size": 10240,
        "routed_scaling_factor": 5.0,
        **_MAMBA,
        **_ATTENTION,
        **_MTP,
    },
}
