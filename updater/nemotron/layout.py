"""The tensors of a released Nemotron-H checkpoint: their names and shapes, from its config.json.

A pure function of the configuration, without torch, so that a checkpoint of 60 GB is checked in
milliseconds before any work. Not the model: transformers builds that, and a test holds the two
against each other. Called by `updater.nemotron.presets` and `updater.nemotron.checkpoint`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from updater.errors import InputError

# transformers' names of the layers, old and new, beside the letters of hybrid_override_pattern.
_LETTERS = {
    "linear_attention": "M",
    "mamba": "M",
    "moe": "E",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
}
# By its released name, what transformers writes in the place of it.
_LISTS = {
    "hybrid_override_pattern": ("layers_block_type", "layer_types"),
    "mtp_hybrid_override_pattern": ("mtp_layers_block_type",),
}
MTP_PATTERN = "*E"
"""Nemotron 3 Super's, and what transformers takes where the field is missing."""

_SIZES = {
    "M": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"),
    "*": ("num_attention_heads", "num_key_value_heads", "head_dim"),
    "E": (
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
    ),
    "-": ("intermediate_size",),
}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def pattern(fields: Mapping[str, Any], *, where: str) -> str:
    """One letter per layer: M Mamba-2, E mixture of experts, * attention, - dense MLP.

    Raises:
        InputError: hybrid_override_pattern is not there, or holds something else.
    """
    return _letters(fields, "hybrid_override_pattern", where)


def mtp_pattern(fields: Mapping[str, Any], *, where: str) -> str:
    """The same of the multi-token-prediction head, all its steps one after the other; "" where the
    configuration asks for no head.

    Raises:
        InputError: mtp_hybrid_override_pattern holds something else.
    """
    num_steps = int(fields.get("num_nextn_predict_layers") or 0)
    if not num_steps:
        return ""
    return _letters(fields, "mtp_hybrid_override_pattern", where, MTP_PATTERN) * num_steps


def released_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json, with layers told as NVIDIA tells them where transformers'
    `save_pretrained` has written a list of names."""
    found = dict(fields)
    for name, lists in _LISTS.items():
        written = [found.pop(of) for of in lists if of in found]
        kinds = next((kinds for kinds in written if isinstance(kinds, list) and kinds), None)
        if kinds is not None:
            found.setdefault(name, "".join(_LETTERS.get(str(kind), "?") for kind in kinds))
    return found


def resized(
    written: Mapping[str, Any], sizes: Mapping[str, int], layers: Sequence[bool]
) -> dict[str, Any]:
    """The fields of a config.json, in whichever form it was written, of a smaller model: each in
    its place, and none that was not there.

    Args:
        sizes: those that change, by their names.
        layers: of each layer whether it stays.
    """
    found = {name: sizes.get(name, value) for name, value in written.items()}
    name = "hybrid_override_pattern"
    for of in found.keys() & {name, *_LISTS[name]}:
        if found[of] and not all(layers):
            kept = [kind for kind, stays in zip(found[of], layers, strict=True) if stays]
            found[of] = "".join(kept) if isinstance(found[of], str) else kept
    return found


def _letters(fields: Mapping[str, Any], name: str, where: str, default: str = "") -> str:
    letters = fields.get(name, default)
    if not isinstance(letters, str) or not letters or set(letters) - set(_MIXERS):
        raise InputError(
            f"{where}: {name} = {letters!r}",
            "must be a string of the letters M, E, * and -, one per layer",
            "copy it from the checkpoint's model card",
        )
    return letters


def tensor_shapes(fields: Mapping[str, Any], *, where: str) -> dict[str, tuple[int, ...]]:
    """Every tensor that the configuration asks for, by its released name, with its shape.

    Args:
        fields: a config.json in released form.
        where: what an error message calls it.

    Raises:
        InputError: a size is missing or below 1, or sizes do not divide as they must.
    """
    letters = pattern(fields, where=where)
    _check_sizes(fields, letters, where)
    hidden = fields["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embeddings.weight": (fields["vocab_size"], hidden)
    }
    for index, letter in enumerate(letters):
        shapes |= _block(fields, f"backbone.layers.{index}", letter)
    shapes["backbone.norm_f.weight"] = (hidden,)
    shapes["lm_head.weight"] = (fields["vocab_size"], hidden)
    return shapes


def mtp_shapes(fields: Mapping[str, Any], *, where: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the multi-token-prediction head, by its released name, with its shape; none
    where the configuration asks for no head.

    The first layer of a step fuses the next token's embedding with the hidden state (enorm, hnorm,
    eh_proj), the last one has final_layernorm: as vLLM's nemotron_h_mtp.py reads them.

    Raises:
        InputError: as `tensor_shapes`.
    """
    letters = mtp_pattern(fields, where=where)
    if not letters:
        return {}
    _check_sizes(fields, letters, where)
    hidden, per_step = (
        fields["hidden_size"],
        len(letters) // int(fields["num_nextn_predict_layers"]),
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for index, letter in enumerate(letters):
        place, layer = index % per_step, f"mtp.layers.{index}"
        if place == 0:
            shapes[f"{layer}.enorm.weight"] = shapes[f"{layer}.hnorm.weight"] = (hidden,)
            shapes[f"{layer}.eh_proj.weight"] = (hidden, 2 * hidden)
        shapes |= _block(fields, layer, letter)
        if place == per_step - 1:
            shapes[f"{layer}.final_layernorm.weight"] = (hidden,)
    return shapes


def _block(fields: Mapping[str, Any], layer: str, letter: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{layer}.norm.weight": (fields["hidden_size"],)}
    return shapes | {f"{layer}.mixer.{name}": shape for name, shape in _MIXERS[letter](fields)}


def _check_sizes(fields: Mapping[str, Any], letters: str, where: str) -> None:
    needed = ["vocab_size", "hidden_size"]
    needed += [size for letter in dict.fromkeys(letters) for size in _SIZES[letter]]
    for name in needed:
        value = fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"{where}: {name} = {value!r}",
                "must be a whole number of at least 1",
                "copy it from the checkpoint's model card",
            )
    _check_divisions(fields, letters, where)


def _check_divisions(fields: Mapping[str, Any], letters: str, where: str) -> None:
    def demand(holds: bool, names: str, rule: str) -> None:
        if not holds:
            values = ", ".join(f"{name} = {fields.get(name)}" for name in names.split())
            raise InputError(f"{where}: {values}", rule, "copy the sizes from the model card")

    if "M" in letters:
        ok = fields["mamba_num_heads"] % fields["n_groups"] == 0
        demand(ok, "mamba_num_heads n_groups", "the groups must divide the heads")
    if "*" in letters:
        ok = fields["num_attention_heads"] % fields["num_key_value_heads"] == 0
        names = "num_attention_heads num_key_value_heads"
        demand(ok, names, "the key-value heads must divide the query heads")
    if "E" in letters:
        num_experts, num_groups = fields["n_routed_experts"], fields.get("n_group", 1)
        ok = fields["num_experts_per_tok"] <= num_experts
        demand(ok, "num_experts_per_tok n_routed_experts", "top-k must not exceed the experts")
        # The router ranks groups by their two best experts (transformers, NemotronHTopkRouter).
        ok = num_experts % num_groups == 0 and num_experts // num_groups >= 2
        demand(ok, "n_routed_experts n_group", "each group must hold the same 2 or more experts")


def _mamba(fields: Mapping[str, Any]) -> Shapes:
    heads, hidden = fields["mamba_num_heads"], fields["hidden_size"]
    inner = heads * fields["mamba_head_dim"]
    conv = inner + 2 * fields["n_groups"] * fields["ssm_state_size"]
    for name in ("A_log", "D", "dt_bias"):
        yield name, (heads,)
    yield "conv1d.weight", (conv, 1, fields["conv_kernel"])
    if fields.get("use_conv_bias", True):
        yield "conv1d.bias", (conv,)
    yield "norm.weight", (inner,)
    for name, rows, columns in (
        ("in_proj", inner + conv + heads, hidden),
        ("out_proj", hidden, inner),
    ):
        yield f"{name}.weight", (rows, columns)
        if fields.get("use_bias", False):
            yield f"{name}.bias", (rows,)


def _attention(fields: Mapping[str, Any]) -> Shapes:
    hidden, head = fields["hidden_size"], fields["head_dim"]
    queries, keys = fields["num_attention_heads"] * head, fields["num_key_value_heads"] * head
    yield "q_proj.weight", (queries, hidden)
    yield "k_proj.weight", (keys, hidden)
    yield "v_proj.weight", (keys, hidden)
    yield "o_proj.weight", (hidden, queries)


def _linear(fields: Mapping[str, Any], name: str, rows: int, columns: int) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    if fields.get("mlp_bias", False):
        yield f"{name}.bias", (rows,)


def _mlp(fields: Mapping[str, Any]) -> Shapes:
    hidden, width = fields["hidden_size"], fields["intermediate_size"]
    yield from _linear(fields, "up_proj", width, hidden)
    yield from _linear(fields, "down_proj", hidden, width)


def _experts(fields: Mapping[str, Any]) -> Shapes:
    hidden, latent = fields["hidden_size"], fields.get("moe_latent_size")
    inner, width = latent or hidden, fields["moe_intermediate_size"]
    shared = fields["moe_shared_expert_intermediate_size"]
    yield "gate.weight", (fields["n_routed_experts"], hidden)
    yield "gate.e_score_correction_bias", (fields["n_routed_experts"],)
    for expert in range(fields["n_routed_experts"]):
        yield f"experts.{expert}.up_proj.weight", (width, inner)
        yield f"experts.{expert}.down_proj.weight", (inner, width)
    yield from _linear(fields, "shared_experts.up_proj", shared, hidden)
    yield from _linear(fields, "shared_experts.down_proj", hidden, shared)
    if latent:
        yield from _linear(fields, "fc1_latent_proj", latent, hidden)
        yield from _linear(fields, "fc2_latent_proj", hidden, latent)


_MIXERS = {"M": _mamba, "*": _attention, "E": _experts, "-": _mlp}
