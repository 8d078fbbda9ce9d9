"""What stays takes over from what goes: neurons within their MLP, experts within their layer.

Ties checkpoints to `compression.rebuilding`, `compression.merging` and `compression.joining`, which
know tensors. Called by `updater.compress.parts` and `updater.compress.engine`.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from compression import merging, rebuilding
from compression.joining import joined
from compression.mlp import Mlp
from updater.compress.looking import Looking


def costs(looking: Looking, key: str) -> Tensor:
    """What it costs when each neuron of an MLP goes and its like takes over: by what they say on
    examples ("merge"), or by their weights alone ("merge_weights")."""
    mlp = _mlp(looking, key)
    if looking.settings.method == "merge_weights":
        return merging.costs(mlp)
    return rebuilding.costs(mlp, looking.moments[_down(key)])


def taken_over(looking: Looking, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released name -> the values, in the shape that it had, of tensors of what stays; nothing by
    methods that do not merge. In the host's memory, of neurons all outgoing weights, of experts
    both matrices of those that take over.

    Args:
        kept: as `updater.compress.parts.choose` has it.
    """
    if looking.settings.method not in ("merge", "merge_weights"):
        return {}
    make = _of_experts if looking.settings.remove == "experts" else _of_neurons
    found: dict[str, Tensor] = {}
    for key, mask in kept.items():
        if not key.startswith("mtp.") and not mask.all():
            found |= make(looking, key, mask)
    return found


def _of_neurons(looking: Looking, key: str, kept: Tensor) -> dict[str, Tensor]:
    mlp = _mlp(looking, key)
    if looking.settings.method == "merge_weights":
        folded = merging.fold(mlp, kept)
    else:
        folded = rebuilding.fold(mlp, kept, looking.moments[_down(key)])
    down = mlp.down.clone()
    down[:, kept] = folded.down
    return {_down(key): down}


def _of_experts(looking: Looking, key: str, kept: Tensor) -> dict[str, Tensor]:
    """Each that goes joins the one that stays to whose place the router would send it: whose row
    points most the same way, as M-SMoE groups experts by the router's likeness (Li et al. 2023,
    arXiv 2310.01334). Weighed by the tokens that came to them."""
    tokens = looking.experts(key).tokens_e.double()
    router = f"{key.removesuffix('.experts')}.gate.weight"
    rows = functional.normalize(looking.weight(router).float())
    stays = kept.nonzero()[:, 0]
    found: dict[int, Mlp] = {}
    for goes in (~kept).nonzero()[:, 0].tolist():
        heir = int(stays[(rows[stays] @ rows[goes]).argmax()])
        both = float(tokens[heir] + tokens[goes])
        share = float(tokens[heir]) / both if both else 1.0
        first = found.get(heir) or _mlp(looking, f"{key}.{heir}")
        found[heir] = joined(first, _mlp(looking, f"{key}.{goes}"), share)
        tokens[heir] = both
    return {
        name: tensor
        for heir, mlp in found.items()
        for name, tensor in (
            (f"{key}.{heir}.up_proj.weight", mlp.up),
            (_down(f"{key}.{heir}"), mlp.down),
        )
    }


def _mlp(looking: Looking, key: str) -> Mlp:
    bias = f"{key}.up_proj.bias"
    return Mlp(
        looking.weight(f"{key}.up_proj.weight"),
        looking.weight(_down(key)),
        looking.weight(bias) if bias in looking.contents.entries else None,
    )


def _down(key: str) -> str:
    return f"{key}.down_proj.weight"
