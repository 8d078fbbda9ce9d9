"""How many parts of a Nemotron-H model stay when a share of a kind goes: whole numbers, and bounds.

config.json has one size of each sort for all layers, so every layer loses as many. A sort is named
by the field that holds its size; `KINDS` says which belong together. No torch. Called by
`updater.nemotron.parts`, `updater.nemotron.smaller` and whoever prunes.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from updater.errors import InputError, did_you_mean
from updater.nemotron.layout import mtp_pattern, pattern

DENSE, SHARED, EXPERT = (
    "intermediate_size",
    "moe_shared_expert_intermediate_size",
    "moe_intermediate_size",
)
EXPERTS, HEADS, LAYERS = "n_routed_experts", "mamba_num_heads", "num_hidden_layers"
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "neurons": (DENSE, SHARED, EXPERT),
        "experts": (EXPERTS,),
        "heads": (HEADS,),
        "layers": (LAYERS,),
    }
)
_LETTERS = {DENSE: "-", SHARED: "E", EXPERT: "E", EXPERTS: "E", HEADS: "M", LAYERS: "ME*-"}


def sorts(kind: str) -> tuple[str, ...]:
    """The fields of the kind's sorts.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        rule = f"must be one of {', '.join(KINDS)}"
        raise InputError(f"parts = {kind!r}", rule, did_you_mean(kind, KINDS))
    return KINDS[kind]


def groups(fields: Mapping[str, Any], size: str) -> int:
    """In how many groups the parts of a sort lie, of which each has to lose as many."""
    names = {EXPERTS: "n_group", HEADS: "n_groups"}
    return int(fields.get(names[size], 1)) if size in names else 1


def unit(fields: Mapping[str, Any], size: str) -> int:
    """Of what the number of a sort has to be a multiple: of its groups; of neurons of routed
    experts 8, 16 bytes of bfloat16, for torch's grouped product takes no other rows ("strides
    should be multiple of 16 bytes", on a CPU as on a GPU)."""
    return 8 if size == EXPERT else groups(fields, size)


def fewest(fields: Mapping[str, Any], size: str) -> int:
    """With how many of a sort a model still runs: as many experts as a token is sent to within the
    groups that the router chooses, and two in each group (it ranks them by their two best); one
    head in each group that shares B and C; one `unit` of the rest."""
    of_each = 1
    if size == EXPERTS:
        of_each = max(2, math.ceil(fields["num_experts_per_tok"] / fields.get("topk_group", 1)))
    return of_each * unit(fields, size)


def staying(
    fields: Mapping[str, Any],
    kind: str,
    sparsity: float,
    *,
    multiple_of: int = 1,
    attention: bool = False,
    where: str,
) -> dict[str, int]:
    """How many of each sort stay, by its field: `size * (1 - sparsity)`, rounded to the nearest
    multiple of `multiple_of` and of its `unit`, of two that are as near to the larger one; all,
    where that is more than there are.

    Args:
        fields: a config.json in released form.
        kind: a key of `KINDS`.
        sparsity: in [0, 1), of each of its sorts; of layers the share of all, also of those that
            may not go.
        multiple_of: of what else, such as 64 neurons for the tiles of a GPU's products, 8 heads
            for mamba-ssm's kernels where groups are fewer (state-spaces/mamba#351), or the number
            of processes that share experts.
        attention: attention layers may go as well.
        where: what an error message calls the config.json.

    Raises:
        InputError: no such kind, or none of it in this model; a sparsity that is out of range,
            leaves too few (`fewest`), or is so small that nothing goes.
    """
    letters = pattern(fields, where=where)
    whole_pattern = letters + mtp_pattern(fields, where=where)
    there = [size for size in sorts(kind) if set(_LETTERS[size]) & set(whole_pattern)]
    asked = f"sparsity of {kind} = {sparsity}"
    if not there:
        raise InputError(asked, f"{where}: the model has no {kind}", "leave them out")
    if not 0 <= sparsity < 1:
        raise InputError(asked, "must be at least 0 and less than 1")
    sizes = {size: len(letters) if size == LAYERS else int(fields[size]) for size in there}
    steps = {size: math.lcm(multiple_of, unit(fields, size)) for size in there}
    fixed = letters.count("*") if LAYERS in there and not attention else 0
    least = {
        size: min(whole, steps[size] * math.ceil(max(fewest(fields, size), fixed) / steps[size]))
        for size, whole in sizes.items()
    }
    found = {
        size: min(whole, steps[size] * math.floor(whole * (1 - sparsity) / steps[size] + 0.5))
        for size, whole in sizes.items()
    }
    if any(found[size] < least[size] for size in there):
        most, size = min((1 - least[size] / sizes[size], size) for size in there)
        must = f"{where}: of {size} = {sizes[size]} at least {least[size]} must stay"
        cure = f"set it to {math.floor(most * 1e4) / 1e4} at most"
        raise InputError(asked, must + _why(fields, size), cure)
    if sparsity and found == sizes:
        below = {size: (whole - 1) // steps[size] * steps[size] for size, whole in sizes.items()}
        some = [1 - n / sizes[size] for size, n in below.items() if n >= least[size]]
        rule = f"{where}: so little is none of {', '.join(there)}, by whole numbers that can go"
        cure = f"set it to {math.ceil(min(some) * 1e4) / 1e4}" if some else "leave them out"
        raise InputError(asked, rule, cure)
    return found


def _why(fields: Mapping[str, Any], size: str) -> str:
    if size == EXPERTS:
        num, chosen = fields["num_experts_per_tok"], fields.get("topk_group", 1)
        return (
            f" (num_experts_per_tok = {num} out of topk_group = {chosen} groups, and 2 in each of"
            f" {groups(fields, size)})"
        )
    return f" (one in each of n_groups = {groups(fields, size)})" if size == HEADS else ""
