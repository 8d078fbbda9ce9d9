"""Which of a checkpoint's parts go: neurons, experts, Mamba heads or layers.

Parts are ranked within their layer, for config.json has one size for all layers; layers among
themselves. Parts of a multi-token-prediction head, which no look at the backbone tells of, are
ranked by the magnitude of their weights. Not the criteria (`compression`), not what those that stay
take over (`updater.compress.merged`), not the cutting (`updater.nemotron.smaller`).
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from compression.experts import ExpertEvidence
from compression.saliency import Evidence, score
from updater.compress import merged
from updater.compress.looking import Looking
from updater.nemotron.parts import Parts, listed

Ranker = Callable[[Parts], Tensor]
"""Parts -> a score of each: what has the lowest goes first."""


def choose(looking: Looking, staying: Mapping[str, int]) -> dict[str, Tensor]:
    """By `Parts.key`, bool (count,): which parts stay, by the settings' method.

    Args:
        staying: how many of each sort, as `updater.nemotron.sparsity.staying` says.

    Raises:
        ValueError: a score is negative or no number.
        UpdateError: the model diverges.
    """
    settings = looking.settings
    rank = _RANKERS.get(settings.method, _by_weights)(looking)
    of_head = _totals(looking, "magnitude", lambda _: Evidence())
    return {
        parts.key: parts.highest(
            (of_head if parts.key.startswith("mtp.") else rank)(parts), staying[parts.size]
        )
        for parts in _all(looking)
    }


def _all(looking: Looking) -> Iterator[Parts]:
    return listed(
        looking.contents.config,
        looking.settings.remove,
        head=looking.has_head,
        attention=looking.settings.attention,
        where=looking.where,
    )


def _by_weights(looking: Looking) -> Ranker:
    """The sum of its weights' scores: of OBD what its removal costs, as far as weights cost each
    for itself (LeCun, Denker & Solla 1989); of magnitude the L1 norm (Li et al. 2017, arXiv
    1608.08710, section 3.1)."""
    return _totals(looking, looking.settings.method, looking.known)


def _totals(looking: Looking, method: str, known: Callable[[str], Evidence | None]) -> Ranker:
    def scores(name: str) -> Tensor:
        weight = looking.weight(name)
        evidence = known(name)
        if evidence is None:  # it is never trained, and costs nothing that is known
            return torch.zeros_like(weight, dtype=torch.float32)
        return score(method, name, weight, evidence)

    return lambda parts: parts.totals(scores, looking.contents.entries)


def _at_random(looking: Looking) -> Ranker:
    return lambda parts: torch.rand(parts.count, generator=looking.generator(parts.key))


def _by_damage(looking: Looking) -> Ranker:
    """What the loss rises by without it, by random masks (`compression.damage`)."""
    found = looking.damage([one for one in _all(looking) if not one.key.startswith("mtp.")])
    return lambda parts: found[parts.key]


def _by_experts(of: Callable[[ExpertEvidence], Tensor]) -> Callable[[Looking], Ranker]:
    return lambda looking: lambda parts: of(looking.experts(parts.key))


def _by_merging(looking: Looking) -> Ranker:
    if looking.settings.remove == "experts":
        return _by_experts(ExpertEvidence.frequency)(looking)
    return lambda parts: merged.costs(looking, parts.key)


_RANKERS: Mapping[str, Callable[[Looking], Ranker]] = MappingProxyType(
    {
        "random": _at_random,
        "dropout": _by_damage,
        "reap": _by_experts(ExpertEvidence.reap),
        "frequency": _by_experts(ExpertEvidence.frequency),
        "merge": _by_merging,
        "merge_weights": _by_merging,
    }
)
"""Those that know parts; the others score weights, and a part by all of its own."""
